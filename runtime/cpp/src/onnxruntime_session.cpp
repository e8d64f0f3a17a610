// Runs a bundle's ONNX file with ONNX Runtime, on exactly the requested provider.

#define ORT_API_MANUAL_INIT  // the library may be older than the headers: ask before use
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cores.hpp"
#include "session.hpp"

namespace flowsr::detail {

namespace {

/// Requests the interface of the headers, which an older library does not have.
void init_api() {
  static std::once_flag once;
  std::call_once(once, [] {
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
      throw Error(Code::backend,
                  std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                      " is older than the headers that this library was built with, whose "
                      "interface is number " + std::to_string(ORT_API_VERSION));
    }
    Ort::InitApi(api);
  });
}

void add_cuda(Ort::SessionOptions& options, int device) {
  const std::vector<std::string> there = Ort::GetAvailableProviders();
  if (std::find(there.begin(), there.end(), "CUDAExecutionProvider") == there.end()) {
    throw Error(Code::backend, "provider cuda is not in this ONNX Runtime");
  }
  OrtCUDAProviderOptions cuda{};
  cuda.device_id = device;
  cuda.arena_extend_strategy = 1;  // as much as is asked for
  try {
    options.AppendExecutionProvider_CUDA(cuda);
  } catch (const Ort::Exception& error) {
    throw Error(Code::backend, "provider cuda did not start on device " +
                                   std::to_string(device) + ": " + one_line(error.what()));
  }
}

Ort::SessionOptions options_of(const Settings& settings) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(settings.threads > 0 ? settings.threads : usable_cores());
  options.SetInterOpNumThreads(1);
  options.SetExecutionMode(ORT_SEQUENTIAL);
  options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
  // As in Python: patterns keep one block per tile shape and lay it out worse than the arena.
  options.DisableMemPattern();
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // errors are thrown, and said once
  const std::string provider = settings.provider.empty() ? "cpu" : settings.provider;
  if (provider == "cuda") {
    add_cuda(options, settings.device);
  } else if (provider != "cpu") {
    throw Error(Code::usage, "provider must be cpu or cuda, got " + provider);
  } else if (settings.device != 0) {
    throw Error(Code::usage, "device must be 0 with provider cpu, got " +
                                 std::to_string(settings.device));
  }
  return options;
}

ONNXTensorElementDataType type_of(Kind kind) {
  return kind == Kind::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : kind == Kind::uint8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                               : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

Kind kind_of(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT   ? Kind::float32
         : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 ? Kind::uint8
         : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? Kind::int64
                                                       : Kind::other;
}

class OnnxruntimeSession : public Session {
 public:
  OnnxruntimeSession(const Bundle& bundle, const Settings& settings)
      : provider_(settings.provider.empty() ? "cpu" : settings.provider),
        bundle_(bundle),
        settings_(settings),
        env_(ORT_LOGGING_LEVEL_FATAL, "flowsr") {
    const std::string name = bundle.model_name(settings.precision);
    session_ = load(name);
    check(bundle.manifest(), bundle.path() + "/" + name);
    for (const SizeFixedGraph& graph : bundle.manifest().graphs) {
      if (graph.precision == settings.precision) graphs_.push_back(graph);
    }
  }

  Output run(const std::vector<Input>& inputs) override {
    const SizeFixedGraph* graph = matching_graph(graphs_, inputs);
    Ort::Session& session = graph == nullptr ? session_ : size_fixed(graph->file);
    try {
      const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
      std::vector<const char*> names;
      std::vector<Ort::Value> values;
      for (const Input& input : inputs) {
        if (graph != nullptr && input.name == "geometry") continue;
        names.push_back(input.name.c_str());
        values.push_back(Ort::Value::CreateTensor(
            memory, const_cast<void*>(input.data), input.bytes, input.shape.data(),
            input.shape.size(), type_of(input.kind)));
      }
      const char* wanted[] = {"output"};
      std::vector<Ort::Value> results = session.Run(Ort::RunOptions{nullptr}, names.data(),
                                                    values.data(), values.size(), wanted, 1);
      return output_of(std::move(results[0]));
    } catch (const Ort::Exception& error) {
      if (says_out_of_memory(error.what())) {
        throw Error(Code::memory,
                    provider_ + " ran out of memory; give a smaller memory_budget");
      }
      throw Error(Code::backend, provider_ + " failed: " + one_line(error.what()));
    }
  }

 private:
  Ort::Session load(const std::string& name) {
    const Ort::SessionOptions options = options_of(settings_);
    const std::string model = bundle_.read(name);  // the very bytes whose hash was checked
    try {
      return Ort::Session(env_, model.data(), model.size(), options);
    } catch (const Ort::Exception& error) {
      throw load_error(error, bundle_.path() + "/" + name);
    }
  }

  /// Returns the session of a size-fixed graph, loaded when its size first runs.
  Ort::Session& size_fixed(const std::string& file) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = size_fixed_.find(file);
    if (found != size_fixed_.end()) return found->second;
    return size_fixed_.emplace(file, load(file)).first->second;
  }

  Error load_error(const Ort::Exception& error, const std::string& path) const {
    if (says_out_of_memory(error.what())) {
      return Error(Code::memory, path + " does not fit in memory");
    }
    const OrtErrorCode code = error.GetOrtErrorCode();
    const bool model = code == ORT_INVALID_GRAPH || code == ORT_INVALID_PROTOBUF ||
                       code == ORT_NOT_IMPLEMENTED;
    if (provider_ != "cpu" && !model) {
      return Error(Code::backend,
                   "provider " + provider_ + " did not start: " + one_line(error.what()));
    }
    return Error(Code::bundle,
                 "onnxruntime cannot load " + path + ": " + one_line(error.what()));
  }

  void check(const Manifest& manifest, const std::string& path) const {
    const Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
      names.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
    }
    check_inputs(path, names, manifest);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i] != "input") continue;
      const Ort::TypeInfo info = session_.GetInputTypeInfo(i);
      const Kind kind = kind_of(info.GetTensorTypeAndShapeInfo().GetElementType());
      if (kind != (manifest.eight_bit ? Kind::uint8 : Kind::float32)) {
        throw Error(Code::bundle,
                    path + " takes pictures of another type than bundle.json says");
      }
    }
  }

  static Output output_of(Ort::Value result) {
    const auto value = std::make_shared<Ort::Value>(std::move(result));
    const Ort::TensorTypeAndShapeInfo info = value->GetTensorTypeAndShapeInfo();
    Output output;
    output.kind = kind_of(info.GetElementType());
    output.shape = info.GetShape();
    output.data = value->GetTensorRawData();
    output.owner = value;
    return output;
  }

  std::string provider_;
  Bundle bundle_;
  Settings settings_;
  Ort::Env env_;
  Ort::Session session_{nullptr};
  std::vector<SizeFixedGraph> graphs_;
  std::mutex mutex_;
  std::map<std::string, Ort::Session> size_fixed_;
};

}  // namespace

std::unique_ptr<Session> open_onnxruntime(const Bundle& bundle, const Settings& settings) {
  init_api();
  return std::make_unique<OnnxruntimeSession>(bundle, settings);
}

}  // namespace flowsr::detail
