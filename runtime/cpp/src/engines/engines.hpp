/// Find, check and choose the engines of a bundle by their descriptions.
#ifndef FLOWSR_ENGINES_HPP
#define FLOWSR_ENGINES_HPP

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backends/session.hpp"

namespace flowsr::detail {

/// Range of one input in one profile: shapes, or the values of an int64 shape tensor.
struct Range {
  std::vector<std::int64_t> min, opt, max;
  bool covers(const std::vector<std::int64_t>& values) const;
};

/// Ranges by input name.
using Profile = std::map<std::string, Range>;

/// The installed library and the device.
struct Rig {
  std::string flavour;  ///< "tensorrt", "tensorrt_rtx" or "inductor".
  std::string version;  ///< Of the library.
  std::string gpu_name;  ///< "" where engines are not of one GPU's name.
  std::string compute_capability;  ///< Such as "8.9"; on a CPU its instruction set.
};

/// A tensor of an engine, in the order of its arguments.
struct EngineInput {
  std::string name, dtype;
};

/// One engine, a plan (`.engine`) or a package (`.pt2`), with its description in `.json`.
struct Engine {
  std::string path;  ///< Of the plan or package.
  std::string sha256;
  std::int64_t bytes = 0;
  bool qualified = false;  ///< It ran before it was stored.
  // Its key.
  std::string onnx_sha256, flavour, version, precision;
  bool version_compatible = false;
  std::vector<std::string> devices;  ///< Compute capabilities, none for a portable engine.
  std::string gpu_name;              ///< "" for any of the capability.
  std::vector<Profile> profiles;  ///< One without ranges where it was built without profiles.
  std::vector<EngineInput> inputs;

  /// Returns the plan, whose hash was checked. Throws Damaged.
  std::string read() const;
  /// Path inside the bundle.
  std::string name() const;
  bool on_cpu() const;
};

/// A damaged engine: no other way to run the bundle hides it.
class Damaged : public Error {
 public:
  explicit Damaged(const std::string& message) : Error(Code::bundle, message) {}
};

/// Returns all engines of a bundle by name.
///
/// Throws Damaged, or Error (bundle) if a description is of a newer schema.
std::vector<Engine> all_engines(const Bundle& bundle);

/// Returns the engines of a model that a device can load, those for fewest devices first.
///
/// Throws as `all_engines`, and Error (bundle) if no engine is left.
std::vector<Engine> matching_engines(const Bundle& bundle, const std::string& precision,
                                     const Rig& rig);

/// The runs that engines take, one image at a time.
class EngineLimits : public ProfileLimits {
 public:
  EngineLimits(const std::vector<Engine>& engines, const std::vector<Latent>& latents);
  MatchingProfiles matching_profiles(int axis,
                                     const std::vector<Piece>& pieces) const override;

 private:
  struct Span {
    std::int64_t least = 0, most = std::int64_t{1} << 62;
  };
  /// Bounds that one profile puts on one axis of a run.
  struct Bounds {
    Span lr_size, out_size, source, target, lr_begin, out_begin;
    bool covers(const Extent& extent) const;
  };
  static Bounds bounds_of(const Profile& profile, const std::vector<Latent>& latents, int axis);

  std::vector<Bounds> bounds_[2];  // rows and columns, by profile
};

/// The engines of a bundle that a device loads, and the choice among them for each run.
class EngineSelection {
 public:
  /// Throws as `matching_engines`.
  EngineSelection(const Bundle& bundle, const std::string& precision, const Rig& rig);

  /// Those of one size first.
  const std::vector<Engine>& engines() const { return engines_; }
  const EngineLimits& limits() const { return limits_; }
  /// SHA-256 of the engines, separated by spaces.
  std::string hashes() const;

  struct Choice {
    std::size_t engine, profile;
  };
  /// Returns the first engine with a profile for some inputs. Throws Error (bundle).
  Choice choose(const std::vector<Input>& inputs) const;

 private:
  std::vector<Engine> engines_;
  EngineLimits limits_;
};

}  // namespace flowsr::detail

#endif  // FLOWSR_ENGINES_HPP
