// The command flowsr-upscale: upscale one PNG with a bundle.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "machine/available_memory.hpp"
#include "commands/command.hpp"
#include "upscaling/pixels.hpp"
#include "commands/png_picture.hpp"

namespace {

using namespace flowsr;

constexpr const char* kHelp = R"(Usage: flowsr-upscale BUNDLE IN.png OUT.png [OPTIONS]

Upscale a PNG of 8 or 16 bits per channel. Alpha, gray, depth and the ICC profile are kept,
other metadata is dropped.

  --scale S|SxS          scale, at least 1, or a horizontal and a vertical scale, as in 2.7x3.6;
                         several, joined by commas, write OUT_x1.5.png, OUT_x2.png, ...
  --size WxH             output size in pixels; a bundle of one scale needs neither
  --max-memory BYTES     memory limit of one run, such as 800M; larger pictures are tiled
                         [the bundle's own setting, or 1G, or 16G with an engine]
  --halo default|exact   overlap of tiles: small, or the model's receptive field  [default]
  --temperature T        standard deviation of the noise, for bundles without a learned prior
                         or with graphs of latents
  --temperature-map MAP  gray PNG over the whole picture that scales the temperature: white
                         keeps it, black is without noise
  --prior-mix A          factor of the learned prior's latent, to which the noise is added;
                         needs graphs of latents  [0 with --temperature, else 1]
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

/// An output: its size and its file.
struct OutputFile {
  Target target;
  std::string path;
};

/// Returns a scale as a file name has it: 3/2 is 1.5.
std::string scale_name(const std::string& text) {
  const std::size_t slash = text.find('/');
  double value = std::strtod(text.c_str(), nullptr);
  if (slash != std::string::npos) value /= std::strtod(text.c_str() + slash + 1, nullptr);
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%g", value);
  return buffer;
}

/// Reads one scale, and appends its name to that of the file if there are several.
OutputFile output_of(const std::string& text, const std::string& out, bool several) {
  const std::size_t cross = text.find_first_of("xX");
  const std::string columns = text.substr(0, cross);
  const std::string rows = cross == std::string::npos ? columns : text.substr(cross + 1);
  OutputFile output{Target(Scale(rows), Scale(columns)), out};
  if (!several) return output;
  const std::size_t dot = out.rfind('.');
  const bool inside = dot == std::string::npos || out.find('/', dot) != std::string::npos;
  const std::size_t stem = inside ? out.size() : dot;
  const std::string first = scale_name(columns), second = scale_name(rows);
  output.path = out.substr(0, stem) + "_x" + (first == second ? first : first + "x" + second) +
              out.substr(stem);
  return output;
}

std::vector<OutputFile> outputs_of(const detail::Arguments& arguments, const std::string& out) {
  if (arguments.has("scale") && arguments.has("size")) {
    detail::misuse("give exactly one of --scale and --size");
  }
  if (arguments.has("size")) return {{Target(parse_size(arguments.text("size"))), out}};
  if (!arguments.has("scale")) return {{Target(), out}};
  const std::string text = arguments.text("scale");
  const bool several = text.find(',') != std::string::npos;
  std::vector<OutputFile> outputs;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    outputs.push_back(output_of(text.substr(begin, end - begin), out, several));
    for (std::size_t i = 0; i + 1 < outputs.size(); ++i) {
      if (outputs[i].path != outputs.back().path) continue;
      detail::misuse("--scale must be given once each, got " + outputs[i].path + " twice");
    }
    begin = end + 1;
  }
  return outputs;
}

/// A gray picture as factors in [0, 1].
struct Map {
  std::vector<float> factors;
  Size size;
};

Map map_of(const detail::Arguments& arguments) {
  if (!arguments.has("temperature-map")) return {};
  const std::string path = arguments.text("temperature-map");
  const detail::PngPicture picture = detail::read_png_file(path);
  if (picture.channels != 1) {
    detail::misuse("--temperature-map must be gray, got " + std::to_string(picture.channels) +
                   " channels in " + path);
  }
  Map map{{}, picture.size};
  for (const std::uint8_t value : picture.bytes) map.factors.push_back(detail::in_range(value));
  for (const std::uint16_t value : picture.words) map.factors.push_back(detail::in_range(value));
  return map;
}

Request request_of(const detail::Arguments& arguments, const Map& map) {
  Request request;
  if (!map.factors.empty()) {
    request.temperature_map = map.factors.data();
    request.temperature_map_size = map.size;
  }
  if (arguments.has("prior-mix")) request.prior_mix = arguments.real("prior-mix");
  request.seed = arguments.whole("seed", 0, std::numeric_limits<std::uint64_t>::max());
  if (arguments.has("temperature")) request.temperature = arguments.real("temperature");
  request.truncate = arguments.has("truncate");
  request.warn = [](const std::string& line) {
    std::cerr << "flowsr-upscale: " << line << '\n';
  };
  return request;
}

/// Upscales the pixels of one depth; `member` is where a picture holds them.
template <class T>
void upscale_all(const Upscaler& upscaler, const detail::PngPicture& picture,
                 const std::vector<OutputFile>& outputs, std::vector<T> detail::PngPicture::* member,
                 std::vector<detail::PngPicture>& larges, const Request& request) {
  std::vector<Target> targets;
  std::vector<T*> results;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Size size = larges[i].size;
    (larges[i].*member)
        .resize(static_cast<std::size_t>(size.height * size.width * request.channels));
    targets.push_back(outputs[i].target);
    results.push_back((larges[i].*member).data());
  }
  const T* pixels = (picture.*member).data();
  if (outputs.size() == 1) {
    upscaler.upscale(pixels, picture.size, targets[0], results[0], request);
  } else {
    upscaler.upscale(pixels, picture.size, targets, results, request);
  }
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
  const std::vector<OutputFile> outputs = outputs_of(arguments, out);
  const Map map = map_of(arguments);
  Request request = request_of(arguments, map);
  const Bundle bundle = Bundle::open(arguments.others[0]);
  for (const OutputFile& output : outputs) detail::check_output(output.path, force);
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
  for (const OutputFile& output : outputs) {
    detail::check_available(picture.size, bundle.target(picture.size, output.target),
                            picture.channels * picture.depth / 8);
  }
  const Upscaler upscaler = Upscaler::open(bundle, settings);
  for (const std::string& line : upscaler.passed_over()) {
    std::cerr << "flowsr-upscale: passed over " << line << '\n';
  }
  request.channels = picture.channels;
  std::vector<detail::PngPicture> larges(outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    detail::PngPicture& large = larges[i];
    large.size = upscaler.target(picture.size, outputs[i].target);
    large.channels = picture.channels, large.depth = picture.depth;
    large.profile = picture.profile;
  }
  if (picture.depth == 16) {
    upscale_all(upscaler, picture, outputs, &detail::PngPicture::words, larges, request);
  } else {
    upscale_all(upscaler, picture, outputs, &detail::PngPicture::bytes, larges, request);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    detail::write_png_file(outputs[i].path, larges[i], force);
  }
  if (!upscaler.untested().empty()) {
    std::cerr << "flowsr-upscale: not tested: " << upscaler.untested() << '\n';
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Size size = larges[i].size;
    std::cout << outputs[i].path << "  " << size.width << "x" << size.height << "  "
              << upscaler.choice() << '\n';
  }
  return FLOWSR_DONE;
}

}  // namespace

int main(int count, char** words) {
  return flowsr::detail::run_command("flowsr-upscale", [&] {
    const flowsr::detail::Arguments arguments(
        count, words,
        flowsr::detail::with_settings(
            {"scale", "size", "halo", "temperature", "temperature-map", "prior-mix", "seed"}),
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
