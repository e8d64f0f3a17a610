/// Upscale images with a bundle of flowsr-lp, with the same result as in Python.
///
/// Images are contiguous rows of pixels. The library has no global state, prints nothing, and
/// handles no signals.
#ifndef FLOWSR_FLOWSR_HPP
#define FLOWSR_FLOWSR_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "flowsr/flowsr.h"

namespace flowsr {

/// Kinds of failure: the exit codes of the commands.
enum class Code : int {
  failure = FLOWSR_FAILURE,
  usage = FLOWSR_USAGE,
  parity = FLOWSR_PARITY,
  backend = FLOWSR_BACKEND,
  bundle = FLOWSR_BUNDLE,
  memory = FLOWSR_MEMORY,
};

/// A failure that a user can act on; its message is one line.
class FLOWSR_API Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

/// Largest output side in pixels; keeps every product of the graph's geometry in 64 bits.
constexpr std::int64_t kMaxSide = std::int64_t{1} << 20;

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;
  bool operator==(const Size& other) const {
    return height == other.height && width == other.width;
  }
  bool operator!=(const Size& other) const { return !(*this == other); }
};

/// Output pixels per input pixel, at least 1, with the exact value of its text: 2.7 is 27/10.
class FLOWSR_API Scale {
 public:
  /// Reads a decimal such as "2.7" or a fraction such as "27/10". Throws Error (usage).
  Scale(const std::string& text);               // NOLINT: a scale is its text
  Scale(const char* text) : Scale(std::string(text)) {}  // NOLINT
  /// Uses the shortest decimal that identifies the number. Throws Error (usage).
  Scale(double value);                                   // NOLINT
  Scale(int value) : Scale(std::to_string(value)) {}     // NOLINT

  /// Returns floor(pixels * scale + 1/2). Throws Error (usage) above kMaxSide.
  std::int64_t output_size(std::int64_t pixels) const;
  bool equals(std::int64_t whole) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::vector<std::uint32_t> numerator_;  // nine decimal digits a word, the lowest first
  std::vector<std::uint32_t> denominator_;
};

/// The output size of a bundle of one scale.
struct Own {};
struct Scales {
  Scale rows;
  Scale columns;
};

/// The requested output size: a scale, a size, or the bundle's own scale.
class FLOWSR_API Target {
 public:
  Target() : wish_(Own{}) {}
  Target(const Scale& scale) : wish_(Scales{scale, scale}) {}  // NOLINT
  Target(const Scale& rows, const Scale& columns) : wish_(Scales{rows, columns}) {}
  Target(const Size& size) : wish_(size) {}  // NOLINT
  const std::variant<Own, Scales, Size>& wish() const { return wish_; }

 private:
  std::variant<Own, Scales, Size> wish_;
};

/// Surroundings that an output window needs to match the whole image.
struct Halo {
  std::int64_t patch = 1;     ///< Output pixels along one side of a patch.
  std::int64_t align = 1;     ///< Output pixels whose multiples windows begin at.
  std::int64_t lr_align = 1;  ///< Input pixels whose multiples tiles begin at.
  std::int64_t patches = 0;   ///< Patches added on each side of the window.
  std::int64_t pixels = 0;    ///< Input pixels added around those that the patches read.
  std::optional<std::int64_t> ratio;  ///< For a graph whose window is its upscaled tile.
};

struct FileEntry {
  std::string sha256;
  std::int64_t bytes = 0;
  std::optional<std::string> precision;  ///< Only for a model.
};

/// A graph for whole images of one size, without the input `geometry`.
struct SizeFixedGraph {
  std::string file;
  std::string precision;
  Size source;             ///< Input size.
  Size target;             ///< Output size.
  std::int64_t batch = 1;  ///< Images at once.
};

/// The graph of any size in two files, for several scales of one image: the outputs of the
/// first one are inputs of the second one.
struct StageGraphs {
  std::string precision;
  std::string features;  ///< From `input` to what no scale changes.
  std::string query;     ///< From the features and the graph's inputs to `output`.
};

/// A noise input of a graph.
struct Latent {
  std::string name;
  std::int64_t channels = 0;
  std::int64_t patch = 1;  ///< Output pixels along one side of a cell.
};

/// Graphs of latents in float32, beside the graph that takes tiles.
struct LatentGraphs {
  std::string encode;  ///< From a picture and its low-resolution image to latents.
  std::string sample;  ///< Decodes latents beside a learned prior's; "" without a prior.
  std::vector<Latent> latents;
};

/// Peak activation memory of one run, in bytes.
struct Memory {
  double base_bytes = 0;
  double bytes_per_pixel = 0;  ///< Per input pixel of the tile.
  double bytes_per_patch = 0;  ///< Per output patch of the window.
  std::optional<std::int64_t> budget_bytes;
  std::int64_t estimate(std::int64_t pixels, std::int64_t patches) const;
};

/// The checked content of bundle.json.
struct Manifest {
  std::string family;
  std::optional<Scale> scale;  ///< The only scale of the graph, none for any.
  std::int64_t multiple = 1;   ///< Divisor of the sides of the graph's images.
  bool eight_bit = false;      ///< Whether the graph's images are uint8.
  bool guard = false;          ///< Whether patches are kept in [-0.1, 1.1].
  bool geometry = false;       ///< Whether the graph has the input `geometry`.
  std::vector<Latent> latents;
  Halo halo;   ///< Keeps seams below one 8-bit step.
  Halo exact;  ///< Holds the whole receptive field.
  bool whole_only = false;
  Memory memory;
  std::map<std::string, FileEntry> files;
  std::vector<SizeFixedGraph> graphs;  ///< Size-fixed graphs beside those of any size.
  std::vector<StageGraphs> stages;     ///< Graphs of any size in two stages.
  std::optional<LatentGraphs> latent_graphs;
};

/// One axis of a window: half-open ranges in pixels of the whole image.
struct Extent {
  std::int64_t source = 0, target = 0;
  std::int64_t lr_begin = 0, lr_end = 0;
  std::int64_t out_begin = 0, out_end = 0;
  std::int64_t lr_size() const { return lr_end - lr_begin; }
  std::int64_t out_size() const { return out_end - out_begin; }
};

/// One axis of a tile: the output pixels without the halo, and how they fade.
struct Piece {
  Extent extent;
  std::int64_t begin = 0, end = 0;
  std::int64_t fade_in = 0, fade_out = 0;
};

/// The tiles of one image: every piece of the rows with every piece of the columns.
struct Plan {
  std::vector<Piece> rows, columns;
  std::int64_t run_bytes = 0;  ///< Estimated activation memory of the largest tile.
  std::int64_t tiles() const {
    return static_cast<std::int64_t>(rows.size() * columns.size());
  }
};

enum class HaloKind { standard, exact };

/// Settings of an upscaler.
struct Settings {
  std::string backend;             ///< "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx",
                                   ///< "inductor"; "" or "auto" for an engine of the bundle
                                   ///< that fits, else the first of these in this build.
  std::string provider;            ///< "cpu" or "cuda"; "" for "cpu" with onnxruntime. A named
                                   ///< one makes "auto" pass over engines.
  std::string precision = "fp32";  ///< Precision of the graph; "bf16" with openvino is the
                                   ///< fp32 graph in bfloat16.
  int device = 0;                  ///< GPU index.
  int threads = 0;                 ///< CPU threads, 0 for all usable cores.
  std::int64_t memory_budget = 0;  ///< Bytes of one run, 0 for the bundle's own setting, or
                                   ///< 1 GiB, or 16 GiB with an engine; with
                                   ///< cuda also the limit of its memory.
  HaloKind halo = HaloKind::standard;
  bool self_test = true;           ///< Run the bundle's golden pair first, unless it has passed
                                   ///< with this library and device before.
  bool tf32 = false;               ///< Float32 graphs in TF32 on cuda: faster, off by 1e-3.
  std::string convolution_search = "heuristic";  ///< On cuda; or "exhaustive", which searches
                                                 ///< again at every new size.
};

/// One upscale request.
struct Request {
  int channels = 3;                   ///< 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
  std::uint64_t seed = 0;             ///< Random seed for the noise.
  /// Standard deviation of the noise n. A bundle without a learned prior needs it, 0 gives the
  /// mode; one with a prior needs graphs of latents for it, and onnxruntime, and then decodes
  /// prior_mix z_LP + temperature n.
  std::optional<double> temperature;
  std::optional<double> prior_mix;  ///< Factor of the prior's latent; 0 with a temperature, else 1.
  /// Factors of the temperature over the whole image, rows of floats in [0, 1], or null for 1;
  /// they stay the caller's.
  const float* temperature_map = nullptr;
  Size temperature_map_size;
  bool clamp = true;                  ///< To [0, 1]; integers are always clamped.
  bool truncate = false;              ///< Truncate 8-bit values instead of rounding.
  /// Called after each tile with the tiles done and the tiles in all; the second number grows
  /// when memory runs out. An exception ends the call.
  std::function<void(std::int64_t done, std::int64_t tiles)> progress;
  /// Called with one line when values lie far out of range, or when memory runs out and tiles
  /// are halved.
  std::function<void(const std::string& line)> warn;
};

/// A bundle on disk whose manifest has been checked; its files are checked when read.
class FLOWSR_API Bundle {
 public:
  /// Throws Error (bundle) if there is no bundle, or its manifest is damaged or of a newer schema.
  static Bundle open(const std::string& path);

  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

  /// Returns the content of a file after checking it against the manifest. Throws (bundle).
  std::string read(const std::string& name) const;
  /// Returns the name of the ONNX file of a precision. Throws (bundle).
  std::string model_name(const std::string& precision) const;
  /// Checks every file. Throws (bundle).
  void check_files() const;

  /// Returns the output size of an image. Throws (usage).
  Size target(Size source, const Target& target) const;
  /// Returns the tiles of an image. Throws (usage, memory).
  Plan plan(Size source, const Target& target, const Settings& settings = {}) const;

 private:
  Bundle(std::string path, std::string text, Manifest manifest);
  bool was_replaced() const;
  [[noreturn]] void refuse_file(const std::string& message) const;
  std::string path_;
  std::string text_;  // of bundle.json
  Manifest manifest_;
};

/// A loaded model; many threads may use it at once.
class FLOWSR_API Upscaler {
 public:
  /// Loads a model, anew if another process replaces the bundle meanwhile. Throws Error: usage,
  /// backend, bundle, or parity for a missed golden pair.
  static Upscaler open(const std::string& bundle, const Settings& settings = {});
  static Upscaler open(const Bundle& bundle, const Settings& settings = {});
  Upscaler(Upscaler&&) noexcept;
  Upscaler& operator=(Upscaler&&) noexcept;
  ~Upscaler();

  const Bundle& bundle() const;
  /// Returns "" if the golden pair was met, else the reason why it was not run.
  const std::string& untested() const;
  /// Returns backend, provider, device and precision that run, as in "inductor cpu, fp32".
  const std::string& choice() const;
  /// Returns the better ways to run the bundle that failed, each with its reason.
  const std::vector<std::string>& passed_over() const;
  Size target(Size source, const Target& target) const;
  Plan plan(Size source, const Target& target) const;

  /// Upscales an image.
  ///
  /// `image` is source.height x source.width x request.channels, floats in [0, 1]; `result` has
  /// room for as many channels in the size of `target`, which is returned. Alpha is resized
  /// bilinearly, and fully transparent pixels leave no fringe. Throws Error: usage, memory,
  /// parity for NaN or infinity, backend, bundle.
  Size upscale(const std::uint8_t* image, Size source, const Target& target,
               std::uint8_t* result, const Request& request = {}) const;
  Size upscale(const std::uint16_t* image, Size source, const Target& target,
               std::uint16_t* result, const Request& request = {}) const;
  Size upscale(const float* image, Size source, const Target& target, float* result,
               const Request& request = {}) const;

  /// Upscales an image to several sizes, with the results of separate calls: `results[i]` is of
  /// `targets[i]`. Where the whole image fits the memory budget and onnxruntime finds stage
  /// graphs in the bundle, the encoder runs once; `warn` gets one line where it does not.
  std::vector<Size> upscale(const std::uint8_t* image, Size source,
                            const std::vector<Target>& targets,
                            const std::vector<std::uint8_t*>& results,
                            const Request& request = {}) const;
  std::vector<Size> upscale(const std::uint16_t* image, Size source,
                            const std::vector<Target>& targets,
                            const std::vector<std::uint16_t*>& results,
                            const Request& request = {}) const;
  std::vector<Size> upscale(const float* image, Size source,
                            const std::vector<Target>& targets,
                            const std::vector<float*>& results,
                            const Request& request = {}) const;

 private:
  struct State;
  explicit Upscaler(std::unique_ptr<State> state);
  static Upscaler opened(const Bundle& bundle, const Settings& settings);
  std::unique_ptr<State> state_;
};

/// Draws temperature times standard normal noise for a window of cells: channels x rows x
/// columns floats, each determined by its absolute position. Throws Error (usage).
FLOWSR_API void draw_noise(std::uint64_t seed, std::uint32_t stream, std::int64_t top,
                           std::int64_t left, std::int64_t rows, std::int64_t columns,
                           std::int64_t channels, double temperature, float* result);

/// Returns the backends of this build.
FLOWSR_API std::vector<std::string> backends();

FLOWSR_API std::string version();

}  // namespace flowsr

#endif  // FLOWSR_FLOWSR_HPP
