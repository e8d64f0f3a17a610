// Runs a bundle's engines with TensorRT or TensorRT for RTX.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "engines/engines.hpp"

namespace flowsr::detail {

namespace {

constexpr const char* kOutput = "output";

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string reason = cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) {
    throw Error(Code::memory, std::string("the device's memory does not suffice to ") + what +
                                  "; give a smaller memory_budget");
  }
  throw Error(Code::backend, std::string("the device failed to ") + what + ": " + reason);
}

/// Keeps the last error that TensorRT logs.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      last_ = message;
    } catch (const std::bad_alloc&) {
      last_.clear();
    }
  }

  Error failure(const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::string reason = last_.empty() ? "it does not say why" : one_line(last_);
    last_.clear();
    const Code code = says_out_of_memory(reason) ? Code::memory : Code::backend;
    return Error(code, "tensorrt failed to " + what + ": " + reason);
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

/// Device memory that grows.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* reserve(std::size_t bytes) {
    if (bytes <= bytes_) return data_;
    cudaFree(data_);
    data_ = nullptr, bytes_ = 0;
    check_cuda(cudaMalloc(&data_, bytes), "hold a tensor");
    bytes_ = bytes;
    return data_;
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

Kind kind_of(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kFLOAT   ? Kind::float32
         : type == nvinfer1::DataType::kUINT8 ? Kind::uint8
         : type == nvinfer1::DataType::kINT64 ? Kind::int64
                                              : Kind::other;
}

std::size_t size_of(Kind kind) { return kind == Kind::uint8 ? 1 : kind == Kind::int64 ? 8 : 4; }

/// An engine on the device with one execution context: one run at a time.
class LoadedEngine {
 public:
  LoadedEngine(const Engine& engine, Log& log) : log_(log), name_(engine.path) {
    const std::string plan = engine.read();  // checked: loading it runs native code
    runtime_.reset(nvinfer1::createInferRuntime(log));
    if (!runtime_) throw log.failure("start");
    // A plan for later versions brings a runtime of its own.
    if (engine.version_compatible) runtime_->setEngineHostCodeAllowed(true);
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) throw log.failure("load " + name_);
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw log.failure("make a context of " + name_);
    check_cuda(cudaStreamCreate(&stream_), "make a stream");
  }

  ~LoadedEngine() {
    context_.reset();
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  LoadedEngine(const LoadedEngine&) = delete;
  LoadedEngine& operator=(const LoadedEngine&) = delete;

  Output run(int profile, const std::vector<Input>& inputs) {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      return run_locked(profile, inputs);
    } catch (...) {
      cudaStreamSynchronize(stream_);  // nothing may read the inputs when they are gone
      throw;
    }
  }

 private:
  Output run_locked(int profile, const std::vector<Input>& inputs) {
    if (profile != context_->getOptimizationProfile()) {
      if (!context_->setOptimizationProfileAsync(profile, stream_)) {
        throw log_.failure("select profile " + std::to_string(profile));
      }
      check_cuda(cudaStreamSynchronize(stream_), "select a profile");
    }
    for (const Input& input : inputs) set_input(input);
    if (context_->inferShapes(0, nullptr) != 0) throw log_.failure("take these inputs");
    Output output = place_outputs();
    if (!context_->enqueueV3(stream_)) throw log_.failure("run " + name_);
    const auto bytes = bytes_of(output);
    const auto data = std::make_shared<std::vector<char>>(bytes);
    check_cuda(cudaMemcpyAsync(data->data(), buffers_[kOutput].reserve(bytes), bytes,
                               cudaMemcpyDeviceToHost, stream_),
               "copy the output");
    check_cuda(cudaStreamSynchronize(stream_), "run");
    output.data = data->data();
    output.owner = data;
    return output;
  }

  void set_input(const Input& input) {
    const char* name = input.name.c_str();
    if (kind_of(engine_->getTensorDataType(name)) != input.kind) {
      throw Error(Code::bundle, name_ + " takes another type of " + input.name +
                                    " than bundle.json says");
    }
    nvinfer1::Dims shape{};
    shape.nbDims = static_cast<std::int32_t>(input.shape.size());
    for (std::size_t i = 0; i < input.shape.size(); ++i) shape.d[i] = input.shape[i];
    if (!context_->setInputShape(name, shape)) {
      throw log_.failure("take the shape of " + input.name);
    }
    const void* address = input.data;
    // Values that decide shapes are read on the host.
    if (engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kDEVICE) {
      void* buffer = buffers_[input.name].reserve(input.bytes);
      check_cuda(cudaMemcpyAsync(buffer, input.data, input.bytes, cudaMemcpyHostToDevice,
                                 stream_),
                 "copy an input");
      address = buffer;
    }
    if (!context_->setInputTensorAddress(name, address)) {
      throw log_.failure("take the address of " + input.name);
    }
  }

  /// Gives every output an address, and returns the shape of the images.
  Output place_outputs() {
    Output pictures;
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      if (engine_->getTensorIOMode(name) != nvinfer1::TensorIOMode::kOUTPUT) continue;
      Output output;
      output.kind = kind_of(engine_->getTensorDataType(name));
      const nvinfer1::Dims shape = context_->getTensorShape(name);
      for (std::int32_t k = 0; k < shape.nbDims; ++k) {
        if (shape.d[k] < 0) {
          throw Error(Code::bundle, name_ + " gives a size that is known after the run only");
        }
        output.shape.push_back(shape.d[k]);
      }
      if (!context_->setTensorAddress(name, buffers_[name].reserve(bytes_of(output)))) {
        throw log_.failure(std::string("take the address of ") + name);
      }
      if (std::string(name) == kOutput) pictures = std::move(output);
    }
    if (pictures.shape.empty()) throw Error(Code::bundle, name_ + " has no output");
    return pictures;
  }

  static std::size_t bytes_of(const Output& output) {
    std::size_t bytes = size_of(output.kind);
    for (const std::int64_t side : output.shape) bytes *= static_cast<std::size_t>(side);
    return bytes;
  }

  Log& log_;
  std::string name_;
  // Contexts go before their engine, the engine before its runtime.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  cudaStream_t stream_ = nullptr;
  std::map<std::string, Buffer> buffers_;
  std::mutex mutex_;
};

std::string library_version() {
  return std::to_string(getInferLibMajorVersion()) + "." +
         std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." +
         std::to_string(getInferLibBuildVersion());
}

Rig rig_of(int device) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    throw Error(Code::backend, "there is no CUDA device, or no driver for it");
  }
  if (device >= count) {
    throw Error(Code::backend, "there is no device " + std::to_string(device) + ", only " +
                                   std::to_string(count));
  }
  check_cuda(cudaSetDevice(device), "start");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "say what it is");
  return {FLOWSR_WITH_TENSORRT, library_version(), properties.name,
          std::to_string(properties.major) + "." + std::to_string(properties.minor)};
}

class TensorrtSession : public Session {
 public:
  TensorrtSession(const Bundle& bundle, const Settings& settings)
      : device_(settings.device),
        rig_(rig_of(settings.device)),
        selection_(bundle, settings.precision, rig_) {
    loaded(0);
  }

  const ProfileLimits* limits() const override { return &selection_.limits(); }

  SessionFacts facts() const override {
    return {rig_.flavour, "cuda", rig_.flavour + " " + rig_.version, selection_.hashes()};
  }

  Output run(const std::vector<Input>& inputs) override {
    check_cuda(cudaSetDevice(device_), "start");
    const EngineSelection::Choice choice = selection_.choose(inputs);
    return loaded(choice.engine).run(static_cast<int>(choice.profile), inputs);
  }

 private:
  LoadedEngine& loaded(std::size_t index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<LoadedEngine>& engine = loaded_[index];
    if (!engine) engine = std::make_unique<LoadedEngine>(selection_.engines()[index], log_);
    return *engine;
  }

  int device_;
  Rig rig_;
  EngineSelection selection_;
  Log log_;
  std::mutex mutex_;
  std::map<std::size_t, std::unique_ptr<LoadedEngine>> loaded_;  // before the log goes
};

}  // namespace

std::unique_ptr<Session> open_tensorrt(const Bundle& bundle, const Settings& settings) {
  if (!settings.provider.empty() && settings.provider != "cuda") {
    throw Error(Code::usage, "provider must be cuda with " + settings.backend + ", got " +
                                 settings.provider);
  }
  if (settings.threads != 0) {
    throw Error(Code::usage, "threads is for onnxruntime and openvino, got " +
                                 std::to_string(settings.threads) + " with " +
                                 settings.backend);
  }
  return std::make_unique<TensorrtSession>(bundle, settings);
}

}  // namespace flowsr::detail
