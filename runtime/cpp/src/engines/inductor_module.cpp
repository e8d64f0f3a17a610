// Runs packages of PyTorch's Inductor; the only source that needs PyTorch. It is a library of
// its own, which libflowsr loads when an engine needs it.

#include "engines/inductor_module.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Loader = torch::inductor::AOTIModelPackageLoader;

struct Engine {
  c10::Device device;
  std::vector<std::unique_ptr<Loader>> models;
};

const std::map<std::string, at::ScalarType>& types() {
  static const std::map<std::string, at::ScalarType> by_name = {
      {"float32", at::kFloat}, {"uint8", at::kByte}, {"int64", at::kLong}};
  return by_name;
}

void tell(const std::string& text, char* message, std::size_t room) {
  std::snprintf(message, room, "%s", text.c_str());
}

/// Returns the status of the exception in flight, and its message.
flowsr_torch_status told(char* message, std::size_t room) {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    tell(error.what_without_backtrace(), message, room);
    return FLOWSR_TORCH_MEMORY;
  } catch (const c10::Error& error) {
    tell(error.what_without_backtrace(), message, room);
  } catch (const std::bad_alloc&) {
    tell("out of memory", message, room);
    return FLOWSR_TORCH_MEMORY;
  } catch (const std::exception& error) {
    tell(error.what(), message, room);
  } catch (...) {
    tell("an exception of another kind", message, room);
  }
  return FLOWSR_TORCH_FAILED;
}

/// Reads the version beside the loaded library: the headers do not name the build, and the
/// library may have been replaced since this was compiled.
std::string find_version() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&at::set_num_threads), &info) != 0) {
    const fs::path root = fs::path(info.dli_fname).parent_path().parent_path();
    std::string line;
    std::ifstream plain(root / "build-version");  // of a libtorch archive
    if (plain && std::getline(plain, line)) return line;
    static const std::regex version("__version__ = '([^']*)'.*");
    std::ifstream python(root / "version.py");  // of the Python package
    std::smatch match;
    while (std::getline(python, line)) {
      if (std::regex_match(line, match, version)) return match[1];
    }
  }
  return TORCH_VERSION;
}

const char* version() {
  static const std::string text = find_version();
  return text.c_str();
}

int has_gpu(int index, int* built) {
  const auto& hooks = at::detail::getCUDAHooks();
  *built = hooks.hasCUDART() ? 1 : 0;
  return hooks.hasCUDA() && index < static_cast<int>(hooks.deviceCount()) ? 1 : 0;
}

void* load(const char* path, const char* const* models, std::size_t count, int device,
           int runners, char* message, std::size_t room) {
  try {
    const auto index = static_cast<c10::DeviceIndex>(device);
    auto engine = std::make_unique<Engine>(
        Engine{device < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, index), {}});
    for (std::size_t i = 0; i < count; ++i) {
      engine->models.push_back(std::make_unique<Loader>(
          path, models[i], false, static_cast<std::size_t>(runners), index));
    }
    return engine.release();
  } catch (...) {
    told(message, room);
    return nullptr;
  }
}

at::Tensor tensor_of(const flowsr_torch_array& array, c10::Device device) {
  const at::IntArrayRef shape(array.shape, static_cast<std::size_t>(array.rank));
  const auto options = at::TensorOptions().dtype(types().at(array.dtype));
  if (array.data == nullptr) return at::empty(shape, options.device(device));
  return at::from_blob(const_cast<void*>(array.data), shape, options).to(device);
}

void describe(const at::Tensor& tensor, flowsr_torch_array* result) {
  *result = {};
  for (const auto& [name, type] : types()) {
    if (type == tensor.scalar_type()) {
      std::snprintf(result->dtype, sizeof result->dtype, "%s", name.c_str());
    }
  }
  result->rank = static_cast<int>(tensor.dim());
  std::copy_n(tensor.sizes().begin(), std::min<std::int64_t>(tensor.dim(), FLOWSR_INDUCTOR_RANK),
              result->shape);
  result->data = tensor.const_data_ptr();
}

flowsr_torch_status run(void* handle, std::size_t model, const flowsr_torch_array* inputs,
                        std::size_t count, int threads, std::int64_t height, std::int64_t width,
                        flowsr_torch_array* result, void** owner, char* message,
                        std::size_t room) {
  try {
    const c10::InferenceMode inference;
    // Each thread of the caller has a number of threads of its own.
    at::set_num_threads(threads);
    const Engine& engine = *static_cast<Engine*>(handle);
    std::vector<at::Tensor> tensors;
    for (std::size_t i = 0; i < count; ++i) {
      tensors.push_back(tensor_of(inputs[i], engine.device));
    }
    at::Tensor output = engine.models.at(model)->run(tensors).at(0).cpu();
    if (height > 0) output = output.slice(2, 0, height).slice(3, 0, width);
    auto kept = std::make_unique<at::Tensor>(output.contiguous());
    describe(*kept, result);
    *owner = kept.release();
    return FLOWSR_TORCH_DONE;
  } catch (...) {
    return told(message, room);
  }
}

void release(void* owner) { delete static_cast<at::Tensor*>(owner); }

void close_engine(void* engine) { delete static_cast<Engine*>(engine); }

}  // namespace

const flowsr_inductor_api* flowsr_inductor_module(void) {
  static const flowsr_inductor_api api = {
      FLOWSR_INDUCTOR_INTERFACE, version, has_gpu, load, run, release, close_engine};
  return &api;
}
