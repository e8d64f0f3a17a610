/// Find and check the engines of a bundle by their descriptions.
#ifndef FLOWSR_TENSORRT_ENGINES_HPP
#define FLOWSR_TENSORRT_ENGINES_HPP

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "session.hpp"

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
  std::string flavour;  ///< "tensorrt" or "tensorrt_rtx"
  std::string version;  ///< Of the library, four numbers.
  std::string gpu_name;
  std::string compute_capability;  ///< Such as "8.9".
};

/// One engine: `<name>.engine` and its description `<name>.engine.json`.
struct Engine {
  std::string path;  ///< Of the plan.
  std::string sha256;
  std::int64_t bytes = 0;
  bool version_compatible = false;
  std::size_t devices = 0;  ///< Compute capabilities that it was built for, 0 for portable.
  std::vector<Profile> profiles;  ///< One without ranges where it was built without profiles.

  /// Returns the plan, whose hash was checked. Throws Error (bundle).
  std::string read() const;
};

/// Returns the engines of a model that a device can load, those for fewest devices first.
///
/// Throws Error (bundle) if a description is damaged or newer, or no engine is left.
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

}  // namespace flowsr::detail

#endif  // FLOWSR_TENSORRT_ENGINES_HPP
