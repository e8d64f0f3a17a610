// Runs a bundle's ONNX file with ONNX Runtime, on exactly the requested provider.

#define ORT_API_MANUAL_INIT  // the library may be older than the headers: ask before use
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "machine/cores.hpp"
#include "machine/memory_limit.hpp"
#include "backends/session.hpp"

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

constexpr const char* kNoCudnn =
    "cuDNN 9 is missing or does not fit; install it, for example with pip install "
    "nvidia-cudnn-cu13 for CUDA 13 or nvidia-cudnn-cu12 for CUDA 12";

/// Returns whether an error of provider cuda comes from a missing cuDNN, which is optional in
/// newer versions (microsoft/onnxruntime#29252): convolutions then have no kernel.
bool lacks_cudnn(const std::string& message) {
  std::string words;
  for (const char c : message) words += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  const auto says = [&words](const char* sign) { return words.find(sign) != std::string::npos; };
  const bool no_kernel = says("not_implemented") || says("could not find an implementation");
  return says("libcudnn") || says("cudnn is not available") || says("cudnn not found") ||
         (no_kernel && says("conv"));
}

/// Returns the options of provider cuda by name, as in Python.
std::map<std::string, std::string> cuda_options(const Settings& settings) {
  const std::string& precision = settings.precision;
  const bool half = precision == "fp16" || precision == "bf16";
  std::map<std::string, std::string> options = {
      {"device_id", std::to_string(settings.device)},
      {"arena_extend_strategy", "kSameAsRequested"},
      {"use_tf32", settings.tf32 || half ? "1" : "0"},
      {"cudnn_conv_algo_search",
       settings.convolution_search == "exhaustive" ? "EXHAUSTIVE" : "HEURISTIC"},
  };
  if (precision == "fp16") options["prefer_nhwc"] = "1";
  if (settings.memory_budget > 0) {
    options["gpu_mem_limit"] = std::to_string(settings.memory_budget);
  }
  return options;
}

void add_cuda(Ort::SessionOptions& options, const Settings& settings) {
  const std::vector<std::string> there = Ort::GetAvailableProviders();
  if (std::find(there.begin(), there.end(), "CUDAExecutionProvider") == there.end()) {
    throw Error(Code::backend, "provider cuda is not in this ONNX Runtime");
  }
  const std::map<std::string, std::string> named = cuda_options(settings);
  std::vector<const char*> names, values;
  for (const auto& [name, value] : named) {
    names.push_back(name.c_str());
    values.push_back(value.c_str());
  }
  OrtCUDAProviderOptionsV2* cuda = nullptr;
  try {
    const OrtApi& api = Ort::GetApi();
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
        cuda, api.ReleaseCUDAProviderOptions);
    Ort::ThrowOnError(
        api.UpdateCUDAProviderOptions(cuda, names.data(), values.data(), names.size()));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } catch (const Ort::Exception& error) {
    const std::string reason = one_line(error.what());
    throw Error(Code::backend,
                "provider cuda did not start on device " + std::to_string(settings.device) +
                    ": " + (lacks_cudnn(reason) ? std::string(kNoCudnn) + ": " : "") + reason);
  }
}

/// Returns options that free the arena after each run where memory is limited: it would keep
/// what a run that failed took of the address space.
Ort::RunOptions run_options() {
  Ort::RunOptions options;
  if (has_memory_limit()) {
    options.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
  }
  return options;
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
    add_cuda(options, settings);
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
    for (const StageGraphs& pair : bundle.manifest().stages) {
      if (pair.precision == settings.precision) stages_ = pair;
    }
  }

  Output run(const std::vector<Input>& inputs) override {
    const SizeFixedGraph* graph = matching_graph(graphs_, inputs);
    Ort::Session& session = graph == nullptr ? session_ : loaded(graph->file);
    return translated([&] {
      Feeds feeds;
      for (const Input& input : inputs) {
        if (graph == nullptr || input.name != "geometry") feeds.add(input);
      }
      return output_of(feeds.run(session));
    });
  }

  bool runs_further() const override { return true; }

  Output run_further(const std::string& file, const std::vector<Input>& inputs) override {
    Ort::Session& session = loaded(file);
    return translated([&] {
      Feeds feeds;
      for (const Input& input : inputs) feeds.add(input);
      return output_of(feeds.run(session));
    });
  }

  /// Runs both stages of a whole image, the first one unless its features are known.
  Output run_shared(const std::vector<Input>& inputs, SharedFeatures& shared) override {
    const bool possible = why_not_shared().empty() && is_whole(inputs);
    if (!possible || matching_graph(graphs_, inputs) != nullptr) return run(inputs);
    Ort::Session &first = loaded(stages_->features), &second = loaded(stages_->query);
    return translated([&] {
      if (!shared.values) shared.values = features_of(first, inputs);
      Feeds feeds;
      for (const Input& input : inputs) feeds.add(input);
      const auto& features = *static_cast<const Features*>(shared.values.get());
      return output_of(feeds.run(second, features));
    });
  }

  std::string why_not_shared() const override {
    if (provider_ == "cuda" && settings_.memory_budget > 0) {
      return "scales run one by one within max_memory, which features would exceed";
    }
    if (stages_) return "";
    return "scales run one by one: " + bundle_.path() + " has no stage graphs for this "
           "precision; flowsr-export export-onnx --stages adds them";
  }

  SessionFacts facts() const override {
    // The build that is linked, which can differ from Python's of the same version.
    const std::string version = OrtGetApiBase()->GetVersionString();
    const std::string build = Ort::GetBuildInfoString();
    const std::string sign = "git-commit-id=";
    const std::size_t begin = build.find(sign);
    std::string commit;
    if (begin != std::string::npos) {
      const std::size_t first = begin + sign.size();
      commit = " (" + build.substr(first, build.find_first_of(", ", first) - first) + ")";
    }
    return {"onnxruntime", provider_, "onnxruntime " + version + commit, ""};
  }

 private:
  /// Outputs of the first stage by name.
  struct Features {
    std::vector<std::string> names;
    std::vector<Ort::Value> values;
  };

  /// The inputs of one run, which lie in the caller's memory.
  class Feeds {
   public:
    void add(const Input& input) {
      names_.push_back(input.name.c_str());
      values_.push_back(Ort::Value::CreateTensor(
          memory_, const_cast<void*>(input.data), input.bytes, input.shape.data(),
          input.shape.size(), type_of(input.kind)));
    }

    Ort::Value run(Ort::Session& session) {
      const char* wanted[] = {"output"};
      std::vector<Ort::Value> results = session.Run(run_options(), names_.data(),
                                                    values_.data(), values_.size(), wanted, 1);
      return std::move(results[0]);
    }

    /// Runs the second stage; the features stay where they are.
    Ort::Value run(Ort::Session& session, const Features& features) {
      Ort::IoBinding binding(session);
      for (std::size_t i = 0; i < names_.size(); ++i) binding.BindInput(names_[i], values_[i]);
      for (std::size_t i = 0; i < features.names.size(); ++i) {
        binding.BindInput(features.names[i].c_str(), features.values[i]);
      }
      binding.BindOutput("output", memory_);
      session.Run(run_options(), binding);
      binding.SynchronizeOutputs();
      return std::move(binding.GetOutputValues()[0]);
    }

   private:
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> names_;
    std::vector<Ort::Value> values_;
  };

  /// Runs the first stage and leaves its outputs on the device.
  std::shared_ptr<Features> features_of(Ort::Session& session, const std::vector<Input>& inputs) {
    const auto features = std::make_shared<Features>();
    const auto host = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::MemoryInfo device("Cuda", OrtArenaAllocator, settings_.device, OrtMemTypeDefault);
    const Ort::AllocatorWithDefaultOptions allocator;
    Ort::IoBinding binding(session);
    const auto image = std::find_if(inputs.begin(), inputs.end(), [](const Input& input) {
      return input.name == "input";
    });
    const Ort::Value value = Ort::Value::CreateTensor(
        host, const_cast<void*>(image->data), image->bytes, image->shape.data(),
        image->shape.size(), type_of(image->kind));
    binding.BindInput("input", value);
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
      features->names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
      binding.BindOutput(features->names.back().c_str(), provider_ == "cuda" ? device : host);
    }
    session.Run(run_options(), binding);
    binding.SynchronizeOutputs();
    features->values = binding.GetOutputValues();
    return features;
  }

  /// Calls a function and translates errors of the library.
  template <class Function>
  Output translated(Function run) const {
    try {
      return run();
    } catch (const Ort::Exception& error) {
      if (says_out_of_memory(error.what())) {
        throw Error(Code::memory,
                    provider_ + " ran out of memory; give a smaller memory_budget");
      }
      throw Error(Code::backend, provider_ + " failed: " + explained(error));
    }
  }

  /// Returns the message of an error, with the remedy where cuDNN is missing.
  std::string explained(const Ort::Exception& error) const {
    const std::string reason = one_line(error.what());
    const bool remedied = provider_ == "cuda" && lacks_cudnn(reason);
    return (remedied ? std::string(kNoCudnn) + ": " : "") + reason;
  }

  Ort::Session load(const std::string& name) {
    const Ort::SessionOptions options = options_of(settings_);
    const std::string model = bundle_.read(name);  // the very bytes whose hash was checked
    try {
      return Ort::Session(env_, model.data(), model.size(), options);
    } catch (const Ort::Exception& error) {
      const std::string reason = error.what();
      if (reason.find("Resource temporarily unavailable") != std::string::npos ||
          reason.find("pthread_create") != std::string::npos) {
        throw Error(Code::memory,
                    "the system allows no more threads; give fewer threads, or raise the limit "
                    "(ulimit -u)");
      }
      throw load_error(error, bundle_.path() + "/" + name);
    }
  }

  /// Returns the session of a further graph, loaded when it first runs.
  Ort::Session& loaded(const std::string& file) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = loaded_.find(file);
    if (found != loaded_.end()) return found->second;
    return loaded_.emplace(file, load(file)).first->second;
  }

  Error load_error(const Ort::Exception& error, const std::string& path) const {
    if (says_out_of_memory(error.what())) {
      return Error(Code::memory, path + " does not fit in memory");
    }
    const OrtErrorCode code = error.GetOrtErrorCode();
    const bool model = code == ORT_INVALID_GRAPH || code == ORT_INVALID_PROTOBUF ||
                       code == ORT_NOT_IMPLEMENTED;
    if (provider_ != "cpu" && (!model || lacks_cudnn(error.what()))) {
      return Error(Code::backend, "provider " + provider_ + " did not start: " + explained(error));
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
  std::map<std::string, Ort::Session> loaded_;
  std::optional<StageGraphs> stages_;
};

}  // namespace

std::unique_ptr<Session> open_onnxruntime(const Bundle& bundle, const Settings& settings) {
  init_api();
  return std::make_unique<OnnxruntimeSession>(bundle, settings);
}

}  // namespace flowsr::detail
