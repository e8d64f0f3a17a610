#include "backends/backends.hpp"

#include <algorithm>
#include <stdexcept>

#include "engines/engines.hpp"

namespace flowsr {

std::vector<std::string> backends() {
  std::vector<std::string> names;
#ifdef FLOWSR_WITH_ONNXRUNTIME
  names.emplace_back("onnxruntime");
#endif
#ifdef FLOWSR_WITH_OPENVINO
  names.emplace_back("openvino");
#endif
#ifdef FLOWSR_WITH_TENSORRT
  names.emplace_back(FLOWSR_WITH_TENSORRT);
#endif
#ifdef FLOWSR_WITH_INDUCTOR
  names.emplace_back("inductor");
#endif
  return names;
}

namespace detail {

namespace {

constexpr int kMostThreads = 1024;  // more would take the memory of the machine
constexpr const char* kAuto = "auto";
constexpr const char* kInductor = "inductor";

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check(const Settings& settings, const std::vector<std::string>& built) {
  const std::string& name = settings.backend;
  if (!name.empty() && name != kAuto && !has(built, name)) {
    if (has({"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}, name)) {
      throw Error(Code::backend, "this library was built without backend " + name);
    }
    if (name == kInductor) {
      throw Error(Code::backend,
                  "this library was built without backend inductor; build it with "
                  "-DFLOWSR_TORCH_ROOT=DIR, the folder of PyTorch's package or of libtorch");
    }
    throw Error(Code::usage, "backend must be auto, onnxruntime, openvino, tensorrt, "
                             "tensorrt_rtx or inductor, got " + name);
  }
  if (settings.device < 0 || settings.threads < 0 || settings.memory_budget < 0) {
    throw Error(Code::usage, "device, threads and memory_budget must not be negative");
  }
  if (settings.threads > kMostThreads) {
    throw Error(Code::usage, "threads must be at most " + std::to_string(kMostThreads) +
                                 ", got " + std::to_string(settings.threads));
  }
  if (settings.convolution_search != "heuristic" &&
      settings.convolution_search != "exhaustive") {
    throw Error(Code::usage, "convolution_search must be heuristic or exhaustive, got " +
                                 settings.convolution_search);
  }
  if (name == kInductor && !settings.provider.empty() && settings.provider != "cpu" &&
      settings.provider != "cuda") {
    throw Error(Code::usage,
                "provider must be cpu or cuda with inductor, got " + settings.provider);
  }
}

Settings named(Settings settings, const std::string& backend, const std::string& provider) {
  settings.backend = backend;
  settings.provider = provider;
  return settings;
}

/// Returns a candidate for each library of the engines for a GPU or a CPU.
std::vector<Settings> on_engines(const std::vector<Engine>& engines, const Settings& settings,
                                 const std::vector<std::string>& built, bool on_cpu) {
  std::vector<Settings> found;
  const bool open = settings.backend != kInductor;
  if (open && !settings.provider.empty()) return found;  // of ONNX Runtime
  if (!open && !settings.provider.empty() && (settings.provider == "cpu") != on_cpu) return found;
  if (on_cpu && settings.device > 0) return found;
  for (const char* flavour : {"tensorrt", "tensorrt_rtx", kInductor}) {
    const bool inductor = flavour == std::string(kInductor);
    // TensorRT has no threads of a CPU to set.
    if (!has(built, flavour) || (!inductor && (!open || settings.threads != 0))) continue;
    const bool taken = std::any_of(engines.begin(), engines.end(), [&](const Engine& each) {
      return each.flavour == flavour && each.precision == settings.precision &&
             each.on_cpu() == on_cpu && (!open || !inductor || each.qualified);
    });
    // The session explains which engine a named library misses.
    const bool on_gpu = settings.provider == "cuda" || settings.device > 0;
    const bool required = !open && (on_cpu || on_gpu);
    if (!taken && !required) continue;
    found.push_back(named(settings, flavour, inductor && on_cpu ? "cpu" : "cuda"));
  }
  return found;
}

}  // namespace

std::vector<Settings> candidates(const Bundle& bundle, const Settings& settings) {
  const std::vector<std::string> built = backends();
  check(settings, built);
  const bool open = settings.backend.empty() || settings.backend == kAuto;
  std::vector<Settings> found;
  if (open || settings.backend == kInductor) {
    const std::vector<Engine> engines = all_engines(bundle);
    for (const bool on_cpu : {false, true}) {
      for (Settings& each : on_engines(engines, settings, built, on_cpu)) {
        found.push_back(std::move(each));
      }
    }
  }
  if (open && !built.empty()) {
    const std::string& first = built[0];
    const bool there = std::any_of(found.begin(), found.end(),
                                   [&](const Settings& each) { return each.backend == first; });
    const bool unnamed = first == kInductor && settings.provider.empty();
    if (!there) found.push_back(named(settings, first, unnamed ? "cpu" : settings.provider));
  }
  if (!open && settings.backend != kInductor) found.push_back(settings);
  for (const Settings& each : found) {
    const bool on_cuda = each.backend == "onnxruntime" && each.provider == "cuda";
    if ((settings.tf32 || settings.convolution_search != "heuristic") && !on_cuda) {
      throw Error(Code::usage, "tf32 and convolution_search are for provider cuda");
    }
  }
  return found;
}

std::unique_ptr<Session> open_session(const Bundle& bundle, const Settings& settings) {
  const std::string& name = settings.backend;
  (void)bundle;  // of a library without a backend
#ifdef FLOWSR_WITH_ONNXRUNTIME
  if (name == "onnxruntime") return open_onnxruntime(bundle, settings);
#endif
#ifdef FLOWSR_WITH_OPENVINO
  if (name == "openvino") return open_openvino(bundle, settings);
#endif
#ifdef FLOWSR_WITH_TENSORRT
  if (name == FLOWSR_WITH_TENSORRT) return open_tensorrt(bundle, settings);
#endif
#ifdef FLOWSR_WITH_INDUCTOR
  if (name == kInductor) return open_inductor(bundle, settings);
#endif
  throw std::logic_error("a backend that is listed and cannot be opened: " + name);
}

std::string label(const Settings& settings) {
  const bool tensorrt = settings.backend.rfind("tensorrt", 0) == 0;
  std::string provider = tensorrt ? "cuda" : settings.provider;
  if (provider.empty()) provider = "cpu";
  if (provider != "cpu") provider += ":" + std::to_string(settings.device);
  return settings.backend + " " + provider + ", " + settings.precision;
}

}  // namespace detail

}  // namespace flowsr
