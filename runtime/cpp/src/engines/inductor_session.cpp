// Runs a bundle's packages of PyTorch's Inductor, with libflowsr_inductor, which links PyTorch.

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>

#include "machine/cores.hpp"
#include "engines/engines.hpp"
#include "upscaling/geometry.hpp"
#include "engines/inductor_module.h"
#include "machine/machine.hpp"

namespace flowsr::detail {

namespace {

constexpr const char* kModule = "libflowsr_inductor.so";
// Inputs of a package for a range of sizes: their lengths are the window's patches.
constexpr const char* kRows = "rows";
constexpr const char* kColumns = "columns";
constexpr int kRunners = 4;  // concurrent runs, as in Python
constexpr std::size_t kRoom = 1000;

/// Loads the module once; a failure is told again by each call.
const flowsr_inductor_api& module() {
  static const flowsr_inductor_api* api = [] {
    // PyTorch cannot be unloaded: it stays until the process ends.
    void* library = dlopen(kModule, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      throw Error(Code::backend, std::string(kModule) + " cannot be loaded: " +
                                     one_line(dlerror()));
    }
    const auto symbol = dlsym(library, FLOWSR_INDUCTOR_SYMBOL);
    const auto get = reinterpret_cast<const flowsr_inductor_api* (*)()>(symbol);
    if (get == nullptr || get()->interface_number != FLOWSR_INDUCTOR_INTERFACE) {
      throw Error(Code::backend, std::string(kModule) + " is of another version of flowsr");
    }
    return get();
  }();
  return *api;
}

/// A file of our own with the bytes that were checked: PyTorch reads files only.
class PrivateFile {
 public:
  explicit PrivateFile(const std::string& content) {
    std::error_code error;
    std::filesystem::path base = std::filesystem::temp_directory_path(error);
    std::string name = (error ? "/tmp" : base.string()) + "/flowsr-engine-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
      throw Error(Code::failure, "no folder can be made in " + base.string());
    }
    folder_ = name;
    std::ofstream file(path(), std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    file.close();
    if (file) return;
    std::filesystem::remove_all(folder_, error);
    throw Error(Code::failure, path() + " cannot be written");
  }
  ~PrivateFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  PrivateFile(const PrivateFile&) = delete;
  PrivateFile& operator=(const PrivateFile&) = delete;

  std::string path() const { return (folder_ / "engine.pt2").string(); }

 private:
  std::filesystem::path folder_;
};

Kind kind_of(const std::string& dtype) {
  return dtype == "float32" ? Kind::float32
         : dtype == "uint8" ? Kind::uint8
         : dtype == "int64" ? Kind::int64
                            : Kind::other;
}

flowsr_torch_array array_of(const std::string& dtype, const std::vector<std::int64_t>& shape,
                            const void* data) {
  flowsr_torch_array array{};
  if (dtype.size() >= sizeof array.dtype || shape.size() > FLOWSR_INDUCTOR_RANK) {
    throw Error(Code::bundle, "an engine takes an array that this runtime does not have");
  }
  std::copy(dtype.begin(), dtype.end(), array.dtype);
  array.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), array.shape);
  array.data = data;
  return array;
}

/// A loaded package, which holds a compiled model for each profile of its key.
class LoadedPackage {
 public:
  LoadedPackage(const Engine& engine, int device, const Manifest& manifest)
      : inputs_(engine.inputs), patch_(manifest.halo.patch), scale_(manifest.scale) {
    const PrivateFile file(engine.read());  // checked: loading it runs native code
    std::vector<std::string> names;
    for (std::size_t i = 0; i < engine.profiles.size(); ++i) {
      names.push_back("profile" + std::to_string(i));
    }
    std::vector<const char*> pointers;
    for (const std::string& name : names) pointers.push_back(name.c_str());
    char message[kRoom] = "";
    handle_ = module().load(file.path().c_str(), pointers.data(), pointers.size(), device,
                            kRunners, message, kRoom);
    if (handle_ == nullptr) {
      throw Error(Code::bundle, engine.name() + " cannot be loaded: " + one_line(message));
    }
  }
  ~LoadedPackage() { module().close(handle_); }
  LoadedPackage(const LoadedPackage&) = delete;
  LoadedPackage& operator=(const LoadedPackage&) = delete;

  Output run(std::size_t profile, const std::vector<Input>& inputs, int threads) const {
    // A package for a range of sizes computes whole patches, which are cut to the window.
    const bool ranged = std::any_of(inputs_.begin(), inputs_.end(),
                                    [](const EngineInput& each) { return each.name == kRows; });
    const std::vector<std::int64_t> geometry = geometry_for(inputs);
    const Size window = ranged ? Size{geometry.at(8), geometry.at(9)} : Size{};
    std::vector<flowsr_torch_array> arrays;
    for (const EngineInput& due : inputs_) {
      arrays.push_back(due.name == "geometry" ? array_of(due.dtype, {10}, geometry.data())
                                              : array_for(due, inputs, window));
    }
    flowsr_torch_array result{};
    void* owner = nullptr;
    char message[kRoom] = "";
    const flowsr_torch_status status =
        module().run(handle_, profile, arrays.data(), arrays.size(), threads, window.height,
                     window.width, &result, &owner, message, kRoom);
    if (status != FLOWSR_TORCH_DONE) throw failure(status, one_line(message));
    Output output;
    output.owner = std::shared_ptr<void>(owner, module().release);
    output.kind = kind_of(result.dtype);
    output.shape.assign(result.shape, result.shape + result.rank);
    output.data = result.data;
    return output;
  }

 private:
  static Error failure(flowsr_torch_status status, const std::string& reason) {
    if (status == FLOWSR_TORCH_MEMORY || says_out_of_memory(reason)) {
      return Error(Code::memory, "inductor ran out of memory; give a smaller memory_budget");
    }
    return Error(Code::backend, "inductor failed: " + reason);
  }

  static const Input& find(const std::vector<Input>& inputs, const std::string& name) {
    for (const Input& input : inputs) {
      if (input.name == name) return input;
    }
    throw Error(Code::bundle, "the engine takes " + name + ", bundle.json does not say so");
  }

  /// Returns the input `geometry`; of a model of one scale, whose graph may be without it, that
  /// of the whole image.
  std::vector<std::int64_t> geometry_for(const std::vector<Input>& inputs) const {
    for (const Input& input : inputs) {
      const auto* numbers = static_cast<const std::int64_t*>(input.data);
      if (input.name == "geometry") return {numbers, numbers + 10};
    }
    const std::vector<std::int64_t>& shape = find(inputs, "input").shape;
    if (!scale_) throw Error(Code::bundle, "the run has no geometry");
    return geometry_of(whole_extent(shape.at(2), scale_->output_size(shape.at(2))),
                       whole_extent(shape.at(3), scale_->output_size(shape.at(3))));
  }

  flowsr_torch_array array_for(const EngineInput& due, const std::vector<Input>& inputs,
                               Size window) const {
    if (due.name == kRows) return array_of(due.dtype, {patches(window.height)}, nullptr);
    if (due.name == kColumns) return array_of(due.dtype, {patches(window.width)}, nullptr);
    const Input& input = find(inputs, due.name);
    if (kind_of(due.dtype) != input.kind) {
      throw Error(Code::bundle,
                  "the engine takes another type of " + due.name + " than bundle.json says");
    }
    return array_of(due.dtype, input.shape, input.data);
  }

  std::int64_t patches(std::int64_t pixels) const { return (pixels + patch_ - 1) / patch_; }

  std::vector<EngineInput> inputs_;
  std::int64_t patch_;
  std::optional<Scale> scale_;
  void* handle_ = nullptr;
};

Rig rig_of(bool on_gpu, int device) {
  const std::string version = module().version();
  if (!on_gpu) return {"inductor", version, "", host_isa()};
  int built = 0;
  if (module().has_gpu(device, &built) == 0) {
    throw Error(Code::backend, "cuda:" + std::to_string(device) + " is not usable: PyTorch " +
                                   version + (built != 0 ? " shows no such GPU"
                                                         : " is built without CUDA"));
  }
  return {"inductor", version, "", compute_capability(device)};
}

class InductorSession : public Session {
 public:
  InductorSession(const Bundle& bundle, const Settings& settings)
      : on_gpu_(settings.provider == "cuda"), device_(on_gpu_ ? settings.device : -1),
        threads_(settings.threads > 0 ? settings.threads : usable_cores()),
        manifest_(bundle.manifest()),
        rig_(rig_of(on_gpu_, settings.device)),
        selection_(bundle, settings.precision, rig_) {
    loaded(0);
  }

  const ProfileLimits* limits() const override { return &selection_.limits(); }

  SessionFacts facts() const override {
    return {"inductor", on_gpu_ ? "cuda" : "cpu", "pytorch " + rig_.version,
            selection_.hashes()};
  }

  Output run(const std::vector<Input>& inputs) override {
    const EngineSelection::Choice choice = selection_.choose(inputs);
    return loaded(choice.engine).run(choice.profile, inputs, threads_);
  }

 private:
  const LoadedPackage& loaded(std::size_t index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<LoadedPackage>& package = loaded_[index];
    if (!package) {
      package = std::make_unique<LoadedPackage>(selection_.engines()[index], device_, manifest_);
    }
    return *package;
  }

  bool on_gpu_;
  int device_, threads_;
  Manifest manifest_;
  Rig rig_;
  EngineSelection selection_;
  std::mutex mutex_;
  std::map<std::size_t, std::unique_ptr<LoadedPackage>> loaded_;
};

}  // namespace

std::unique_ptr<Session> open_inductor(const Bundle& bundle, const Settings& settings) {
  return std::make_unique<InductorSession>(bundle, settings);
}

}  // namespace flowsr::detail
