/// The interface of every backend: a loaded model, and the sizes that it takes.
#ifndef FLOWSR_SESSION_HPP
#define FLOWSR_SESSION_HPP

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "flowsr/flowsr.hpp"

namespace flowsr::detail {

enum class Kind { float32, uint8, int64, other };

/// An input of one run; it lies in the caller's memory.
struct Input {
  std::string name;
  Kind kind;
  std::vector<std::int64_t> shape;
  const void* data;
  std::size_t bytes;
};

/// The pictures of one run, (1, 3, H, W); they live as long as `owner`.
struct Output {
  Kind kind = Kind::other;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
  std::shared_ptr<void> owner;
};

/// The profiles that take each piece of an axis, equal ones once.
using MatchingProfiles = std::set<std::vector<bool>>;

/// The sizes that an engine's optimization profiles take.
class ProfileLimits {
 public:
  virtual ~ProfileLimits() = default;
  /// Returns the profiles that take each piece of an axis (0 rows, 1 columns).
  virtual MatchingProfiles matching_profiles(int axis,
                                             const std::vector<Piece>& pieces) const = 0;
};

/// What a loaded model runs on, for the key of its self-test.
struct SessionFacts {
  std::string backend, provider;
  std::string library;  ///< Name and version.
  std::string engines;  ///< SHA-256 of the engines, separated by spaces.
};

/// The features of one image, empty until a run of the whole image leaves them.
struct SharedFeatures {
  std::shared_ptr<void> values;
};

/// A loaded model; `run` may be called by many threads at once.
class Session {
 public:
  virtual ~Session() = default;
  virtual Output run(const std::vector<Input>& inputs) = 0;
  /// As `run`; features of a whole image are taken from `shared`, or left there.
  virtual Output run_shared(const std::vector<Input>& inputs, SharedFeatures& shared) {
    (void)shared;
    return run(inputs);
  }
  /// Returns one line that says why `run_shared` shares nothing, "" if it does.
  virtual std::string why_not_shared() const {
    return "scales run one by one: " + facts().backend + " takes no stage graphs";
  }
  /// Returns whether `run_further` runs another graph of the bundle.
  virtual bool runs_further() const { return false; }
  /// As `run`, of another graph: an ONNX file of the bundle, loaded when it first runs.
  virtual Output run_further(const std::string& file, const std::vector<Input>& inputs) {
    (void)file, (void)inputs;
    throw Error(Code::usage, facts().backend + " takes no further graphs");
  }
  virtual const ProfileLimits* limits() const { return nullptr; }
  virtual SessionFacts facts() const = 0;
};

// Each is in its own source, the only one that needs the backend's library. They throw Error:
// backend if the library or device fails, bundle if it cannot load the model.
std::unique_ptr<Session> open_onnxruntime(const Bundle& bundle, const Settings& settings);
std::unique_ptr<Session> open_openvino(const Bundle& bundle, const Settings& settings);
std::unique_ptr<Session> open_tensorrt(const Bundle& bundle, const Settings& settings);
std::unique_ptr<Session> open_inductor(const Bundle& bundle, const Settings& settings);

/// Returns whether a library's message says that memory is exhausted.
bool says_out_of_memory(const std::string& message);

/// Returns a number with few digits, as in "0.25".
std::string short_text(double value, int digits = 6);

/// Returns a text on one line.
std::string one_line(const std::string& text);

/// Refuses a model whose inputs differ from those in the manifest.
void check_inputs(const std::string& path, const std::vector<std::string>& names,
                  const Manifest& manifest);

/// Returns the size-fixed graph that computes a run, null if none does. Of a graph with the
/// input `geometry` that is a run of a whole image: a tile samples where the whole image does.
const SizeFixedGraph* matching_graph(const std::vector<SizeFixedGraph>& graphs,
                                     const std::vector<Input>& inputs);

/// Returns whether a run is of a whole image, and not of a tile.
bool is_whole(const std::vector<Input>& inputs);

/// Returns the content of a file. Throws Error (bundle).
std::string read_file(const std::string& path);

}  // namespace flowsr::detail

#endif  // FLOWSR_SESSION_HPP
