/* A stand-in for TensorRT's header, for the tests of the C++ backend: the part of it that the
 * backend calls, with the signatures of TensorRT 10.13 and later and of TensorRT for RTX.
 *
 * Its one kind of engine enlarges to the nearest pixel, in absolute geometry: `input` and
 * `geometry` of the deployed graph's contract in, `output` out. A plan that does not begin with
 * "nearest" does not load. What TensorRT refuses is refused: sizes without a profile, a run
 * without addresses, or before the shapes are known. */
#ifndef FLOWSR_DOUBLE_NVINFER_H
#define FLOWSR_DOUBLE_NVINFER_H

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <string>

inline std::int32_t getInferLibMajorVersion() noexcept { return 11; }
inline std::int32_t getInferLibMinorVersion() noexcept { return 4; }
inline std::int32_t getInferLibPatchVersion() noexcept { return 0; }
inline std::int32_t getInferLibBuildVersion() noexcept { return 106; }

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : std::int32_t { kFLOAT = 0, kUINT8 = 5, kINT64 = 8 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class TensorLocation : std::int32_t { kDEVICE = 0, kHOST = 1 };

struct Dims64 {
  static constexpr std::int32_t MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};
using Dims = Dims64;

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2 };
  virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(ILogger& logger) : logger_(logger) {}
  virtual ~IExecutionContext() = default;

  std::int32_t getOptimizationProfile() const noexcept { return profile_; }
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept {
    profile_ = profile;
    return true;
  }
  bool setInputShape(char const* name, Dims const& dims) noexcept {
    const bool picture = std::strcmp(name, "input") == 0;
    if (dims.nbDims != (picture ? 4 : 1) || (picture && dims.d[0] != 1)) {
      return refuse("the shape lies outside every profile");
    }
    if (picture) input_ = dims;
    return true;
  }
  bool setInputTensorAddress(char const* name, void const* data) noexcept {
    (std::strcmp(name, "input") == 0 ? pixels_ : geometry_) = data;
    return true;
  }
  bool setTensorAddress(char const*, void* data) noexcept {
    output_ = data;
    return true;
  }
  std::int32_t inferShapes(std::int32_t, char const**) noexcept {
    inferred_ = geometry_ != nullptr && input_.nbDims == 4;
    return inferred_ ? 0 : 1;
  }
  Dims getTensorShape(char const*) const noexcept {
    const auto* g = static_cast<const std::int64_t*>(geometry_);
    return inferred_ ? Dims{4, {1, 3, g[8], g[9]}} : Dims{4, {1, 3, -1, -1}};
  }
  bool enqueueV3(cudaStream_t) noexcept {
    if (!inferred_ || pixels_ == nullptr || output_ == nullptr) {
      return refuse("a tensor has no address");
    }
    const auto* g = static_cast<const std::int64_t*>(geometry_);
    const auto* in = static_cast<const float*>(pixels_);
    auto* out = static_cast<float*>(output_);
    for (std::int64_t c = 0; c < 3; ++c) {
      for (std::int64_t y = g[6]; y < g[6] + g[8]; ++y) {
        for (std::int64_t x = g[7]; x < g[7] + g[9]; ++x) {
          const std::int64_t row = (2 * y + 1) * g[0] / (2 * g[2]) - g[4];
          const std::int64_t column = (2 * x + 1) * g[1] / (2 * g[3]) - g[5];
          *out++ = in[(c * input_.d[2] + row) * input_.d[3] + column];
        }
      }
    }
    inferred_ = false;
    return true;
  }

 private:
  bool refuse(char const* why) noexcept {
    logger_.log(ILogger::Severity::kERROR, why);
    return false;
  }

  ILogger& logger_;
  std::int32_t profile_ = 0;
  Dims input_{};
  void const* pixels_ = nullptr;
  void const* geometry_ = nullptr;
  void* output_ = nullptr;
  bool inferred_ = false;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(ILogger& logger) : logger_(logger) {}
  virtual ~ICudaEngine() = default;

  std::int32_t getNbIOTensors() const noexcept { return 3; }
  char const* getIOTensorName(std::int32_t index) const noexcept {
    static char const* const names[] = {"input", "geometry", "output"};
    return names[index];
  }
  TensorIOMode getTensorIOMode(char const* name) const noexcept {
    return std::strcmp(name, "output") == 0 ? TensorIOMode::kOUTPUT : TensorIOMode::kINPUT;
  }
  DataType getTensorDataType(char const* name) const noexcept {
    return std::strcmp(name, "geometry") == 0 ? DataType::kINT64 : DataType::kFLOAT;
  }
  TensorLocation getTensorLocation(char const* name) const noexcept {
    return std::strcmp(name, "geometry") == 0 ? TensorLocation::kHOST : TensorLocation::kDEVICE;
  }
  IExecutionContext* createExecutionContext() noexcept {
    return new IExecutionContext(logger_);
  }

 private:
  ILogger& logger_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger) : logger_(logger) {}
  virtual ~IRuntime() = default;

  void setEngineHostCodeAllowed(bool) noexcept {}
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    if (size >= 7 && std::memcmp(blob, "nearest", 7) == 0) return new ICudaEngine(logger_);
    logger_.log(ILogger::Severity::kERROR, "the plan is of another version");
    return nullptr;
  }

 private:
  ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

}  // namespace nvinfer1

#endif
