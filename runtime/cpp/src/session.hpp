/// What every backend is: a loaded model, and the sizes that it takes.
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

/// Which profiles take each piece of an axis, equal ones once.
using Takers = std::set<std::vector<bool>>;

/// The runs that a session takes, where it does not take them all.
class Limits {
 public:
  virtual ~Limits() = default;
  /// Returns which profiles take the pieces of an axis (0 rows, 1 columns).
  virtual Takers takers(int axis, const std::vector<Piece>& pieces) const = 0;
  /// Returns the command that builds an engine for a picture.
  virtual std::string remedy(Size source, Size target, std::int64_t budget,
                             HaloKind halo) const = 0;
};

/// A loaded model; `run` may be called by many threads at once.
class Session {
 public:
  virtual ~Session() = default;
  virtual Output run(const std::vector<Input>& inputs) = 0;
  virtual const Limits* limits() const { return nullptr; }
};

// Each is in a source of its own, the only one that needs the library. They throw Error:
// backend if the library or device fails, bundle if it cannot load the model.
std::unique_ptr<Session> open_onnxruntime(const Bundle& bundle, const Settings& settings);
std::unique_ptr<Session> open_openvino(const Bundle& bundle, const Settings& settings);
std::unique_ptr<Session> open_tensorrt(const Bundle& bundle, const Settings& settings);

/// Returns the number of CPU cores that this process may use.
int usable_cores();

/// Returns whether a library's message says that memory is exhausted.
bool says_out_of_memory(const std::string& message);

/// Returns a text on one line.
std::string one_line(const std::string& text);

/// Refuses a model whose inputs are not those that the manifest says.
void check_inputs(const std::string& path, const std::vector<std::string>& names,
                  const Manifest& manifest);

/// Returns the content of a file. Throws Error (bundle).
std::string read_file(const std::string& path);

}  // namespace flowsr::detail

#endif  // FLOWSR_SESSION_HPP
