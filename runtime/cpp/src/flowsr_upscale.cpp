// The command flowsr-upscale: upscale one PNG with a bundle.

#include <iostream>

#include "available_memory.hpp"
#include "command.hpp"
#include "png_picture.hpp"

namespace {

using namespace flowsr;

constexpr const char* kHelp = R"(Usage: flowsr-upscale BUNDLE IN.png OUT.png [OPTIONS]

Upscale a PNG of 8 or 16 bits per channel. Alpha, gray, depth and the ICC profile are kept,
other metadata is dropped.

  --scale S|SxS          scale, at least 1, or a horizontal and a vertical scale, as in 2.7x3.6
  --size WxH             output size in pixels; a bundle of one scale needs neither
  --max-memory BYTES     memory limit of one run, such as 800M; larger pictures are tiled
                         [the bundle's own setting, or 1G, or 16G with an engine]
  --halo default|exact   overlap of tiles: small, or the model's receptive field  [default]
  --temperature T        standard deviation of the noise, for bundles without a prior
  --seed N               random seed for the noise  [0]
  --truncate             truncate 8-bit values instead of rounding
  --backend NAME         auto, onnxruntime, openvino, tensorrt, tensorrt_rtx or inductor; auto
                         is an engine of the bundle that fits, else the first in this build
                         [auto]
  --provider NAME        provider for onnxruntime and inductor: cpu or cuda  [cpu]
  --device N             GPU index  [0]
  --threads N            CPU threads  [all usable cores]
  --precision NAME       precision of the graph  [fp32]
  --tf32                 float32 graphs in TF32 on cuda: faster, and off by 1e-3 and more
  --convolution-search heuristic|exhaustive
                         choice of convolutions on cuda  [heuristic]
  --no-self-test         do not run the bundle's golden pair first
  --force                replace an existing OUT.png
  --version, --help

Exit codes: 0 done, 1 failure, 2 usage, 3 NaN or infinity or a missed golden pair, 4 a backend or device is missing,
5 a bundle or picture is missing or damaged, 6 out of memory.

Example: flowsr-upscale edsr.bundle photo.png large.png --scale 2.7
)";

Size parse_size(const std::string& text) {
  long long width = 0, height = 0;
  int used = 0;
  const int read = std::sscanf(text.c_str(), "%9lldx%9lld%n", &width, &height, &used);
  if (read != 2 || static_cast<std::size_t>(used) != text.size()) {
    detail::misuse("--size must be such as 1920x1080, got " + text);
  }
  return {height, width};
}

Target target_of(const detail::Arguments& arguments) {
  if (arguments.has("scale") && arguments.has("size")) {
    detail::misuse("give exactly one of --scale and --size");
  }
  if (arguments.has("size")) return Target(parse_size(arguments.text("size")));
  if (!arguments.has("scale")) return Target();
  const std::string text = arguments.text("scale");
  const std::size_t cross = text.find_first_of("xX");
  if (cross == std::string::npos) return Target(Scale(text));
  return Target(Scale(text.substr(cross + 1)), Scale(text.substr(0, cross)));  // rows, columns
}

Request request_of(const detail::Arguments& arguments) {
  Request request;
  request.seed = arguments.whole("seed", 0, std::numeric_limits<std::uint64_t>::max());
  if (arguments.has("temperature")) request.temperature = arguments.real("temperature");
  request.truncate = arguments.has("truncate");
  request.warn = [](const std::string& line) {
    std::cerr << "flowsr-upscale: " << line << '\n';
  };
  return request;
}

/// Upscales the pixels of one depth.
template <class T>
std::vector<T> upscaled(const Upscaler& upscaler, const std::vector<T>& pixels, Size source,
                        const Target& target, const Request& request) {
  const Size size = upscaler.target(source, target);
  std::vector<T> result(static_cast<std::size_t>(size.height * size.width * request.channels));
  upscaler.upscale(pixels.data(), source, target, result.data(), request);
  return result;
}

int upscale(const detail::Arguments& arguments) {
  if (arguments.others.size() != 3) {
    detail::misuse("give BUNDLE, IN.png and OUT.png; see --help");
  }
  const std::string &in = arguments.others[1], &out = arguments.others[2];
  const bool force = arguments.has("force");
  Settings settings = detail::settings_of(arguments);
  const std::string halo = arguments.text("halo", "default");
  if (halo != "default" && halo != "exact") {
    detail::misuse("--halo must be default or exact, got " + halo);
  }
  settings.halo = halo == "exact" ? HaloKind::exact : HaloKind::standard;
  const Target target = target_of(arguments);
  Request request = request_of(arguments);
  const Bundle bundle = Bundle::open(arguments.others[0]);
  detail::check_output(out, force);
  const detail::PngPicture picture = detail::read_png_file(in);
  if (picture.animated) {
    std::cerr << "flowsr-upscale: " << in << ": only the first of its frames is read\n";
  }
  if (!picture.ended) {
    std::cerr << "flowsr-upscale: " << in
              << ": its end is missing, but none of its pixels\n";
  }
  if (picture.lost_profile) {
    std::cerr << "flowsr-upscale: the color profile of " << in
              << " is damaged and was left out\n";
  }
  detail::check_available(picture.size, bundle.target(picture.size, target),
                          picture.channels * picture.depth / 8);
  const Upscaler upscaler = Upscaler::open(bundle, settings);
  for (const std::string& line : upscaler.passed_over()) {
    std::cerr << "flowsr-upscale: passed over " << line << '\n';
  }
  const Size size = upscaler.target(picture.size, target);
  request.channels = picture.channels;
  detail::PngPicture large;
  large.size = size, large.channels = picture.channels, large.depth = picture.depth;
  large.profile = picture.profile;
  if (picture.depth == 16) {
    large.words = upscaled(upscaler, picture.words, picture.size, target, request);
  } else {
    large.bytes = upscaled(upscaler, picture.bytes, picture.size, target, request);
  }
  detail::write_png_file(out, large, force);
  if (!upscaler.untested().empty()) {
    std::cerr << "flowsr-upscale: not tested: " << upscaler.untested() << '\n';
  }
  std::cout << out << "  " << size.width << "x" << size.height << "  " << upscaler.choice()
            << '\n';
  return FLOWSR_DONE;
}

}  // namespace

int main(int count, char** words) {
  return flowsr::detail::run_command("flowsr-upscale", [&] {
    const flowsr::detail::Arguments arguments(
        count, words,
        flowsr::detail::with_settings({"scale", "size", "halo", "temperature", "seed"}),
        {"truncate", "force", "tf32", "no-self-test", "version", "help"});
    if (arguments.has("help")) {
      std::cout << kHelp;
      return 0;
    }
    if (arguments.has("version")) {
      std::cout << "flowsr-upscale " << flowsr::version() << '\n';
      return 0;
    }
    return upscale(arguments);
  });
}
