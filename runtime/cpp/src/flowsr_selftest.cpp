// The command flowsr-selftest: compare a bundle's result with its golden output.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "command.hpp"
#include "json.hpp"
#include "png_picture.hpp"

namespace {

using namespace flowsr;
using detail::Json;

constexpr const char* kHelp = R"(Usage: flowsr-selftest BUNDLE [OPTIONS]

Check every file of a bundle, upscale its golden picture, and compare the result with the
bundle's golden output.

  --tolerance T        largest difference in units of full range  [0.0001]
  --steps N            largest difference in 8-bit steps, after rounding  [1]
  --backend NAME       onnxruntime, openvino, tensorrt or tensorrt_rtx
                       [the first in this build]
  --provider NAME      provider for onnxruntime: cpu or cuda  [cpu]
  --device N           GPU index  [0]
  --threads N          CPU threads  [all usable cores]
  --precision NAME     precision of the graph  [fp32]
  --max-memory BYTES     memory limit of one run, such as 800M
  --json               print one JSON object
  --version, --help

Exit codes: 0 it agrees, 1 failure, 2 usage, 3 it does not agree, 4 a backend or device is
missing, 5 the bundle is damaged or holds no golden picture, 6 out of memory.

Example: flowsr-selftest edsr.bundle
)";

[[noreturn]] void refuse(const std::string& message) { throw Error(Code::bundle, message); }

/// An array in NumPy's format, of floats or of bytes.
struct Array {
  bool eight_bit = false;
  std::vector<std::int64_t> shape;
  std::string data;

  float value(std::size_t index) const {
    if (eight_bit) return static_cast<float>(static_cast<unsigned char>(data[index])) / 255.0f;
    float result;
    std::memcpy(&result, data.data() + 4 * index, sizeof result);
    return result;
  }
};

/// Reads NumPy's format 1.0 to 3.0: little-endian floats or bytes, row-major.
Array read_array(const std::string& content, const std::string& name) {
  if (content.size() < 12 || content.compare(0, 6, "\x93NUMPY") != 0) {
    refuse(name + " is not an array of NumPy");
  }
  const auto byte = [&](std::size_t at) {
    return static_cast<std::size_t>(static_cast<unsigned char>(content[at]));
  };
  const std::size_t begin = content[6] == 1 ? 10 : 12;
  std::size_t length = byte(8) | byte(9) << 8;
  if (begin == 12) length |= byte(10) << 16 | byte(11) << 24;
  if (begin + length > content.size()) refuse(name + " is cut off");
  const std::string header = content.substr(begin, length);
  Array array;
  array.eight_bit = header.find("'|u1'") != std::string::npos;
  const bool known = array.eight_bit || header.find("'<f4'") != std::string::npos;
  if (!known || header.find("'fortran_order': False") == std::string::npos) {
    refuse(name + " is not a row-major array of float32 or uint8");
  }
  std::size_t at = header.find("'shape': (");
  if (at == std::string::npos) refuse(name + " has no shape");
  std::size_t count = 1;
  for (at += 10; at < header.size() && header[at] != ')'; ++at) {
    if (header[at] < '0' || header[at] > '9') continue;
    std::size_t used = 0;
    array.shape.push_back(std::stol(header.substr(at, 9), &used));
    count *= static_cast<std::size_t>(array.shape.back());
    at += used - 1;
  }
  array.data = content.substr(begin + length);
  if (array.data.size() != count * (array.eight_bit ? 1 : 4)) refuse(name + " is cut off");
  return array;
}

struct Case {
  Size size;
  Request request;
};

Case read_case(const Bundle& bundle) {
  const std::string name = "golden/case.json";
  Case result;
  try {
    const Json json = Json::parse(bundle.read(name));
    const Json* size = json.find("size");
    if (size == nullptr || size->items().size() != 2 || !size->items()[0].whole() ||
        !size->items()[1].whole()) {
      refuse(name + " states no size");
    }
    result.size = {*size->items()[0].whole(), *size->items()[1].whole()};
    const Json *seed = json.find("seed"), *temperature = json.find("temperature");
    if (seed != nullptr) {
      result.request.seed = static_cast<std::uint64_t>(seed->whole().value_or(0));
    }
    if (temperature != nullptr) result.request.temperature = temperature->real();
  } catch (const detail::JsonError& error) {
    refuse(name + " is not valid JSON: " + error.what());
  }
  return result;
}

/// Returns the output of the model in units of full range, unclamped if the graph is.
std::vector<float> output_of(const Upscaler& upscaler, const detail::PngPicture& picture,
                          Case golden) {
  const auto count = static_cast<std::size_t>(golden.size.height * golden.size.width * 3);
  std::vector<float> result(count);
  if (upscaler.bundle().manifest().eight_bit) {
    std::vector<std::uint8_t> bytes(count);
    upscaler.upscale(picture.bytes.data(), picture.size, golden.size, bytes.data(),
                     golden.request);
    std::transform(bytes.begin(), bytes.end(), result.begin(),
                   [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0f; });
    return result;
  }
  std::vector<float> image(picture.bytes.size());
  std::transform(picture.bytes.begin(), picture.bytes.end(), image.begin(),
                 [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0f; });
  golden.request.clamp = false;
  upscaler.upscale(image.data(), picture.size, golden.size, result.data(), golden.request);
  return result;
}

int step_of(float value) {
  return static_cast<int>(std::min(std::max(value, 0.0f), 1.0f) * 255.0f + 0.5f);
}

struct Difference {
  double most = 0;  // of full range
  int steps = 0;    // of 8 bits, after rounding
  std::size_t unequal = 0;
  bool finite = true;
};

Difference compare(const std::vector<float>& output, const Array& golden, Size size) {
  Difference result;
  const std::int64_t plane = size.height * size.width;
  for (std::int64_t i = 0; i < plane; ++i) {
    for (std::int64_t c = 0; c < 3; ++c) {
      const float actual = output[static_cast<std::size_t>(3 * i + c)];
      const float expected = golden.value(static_cast<std::size_t>(c * plane + i));
      result.finite = result.finite && std::isfinite(actual) && std::isfinite(expected);
      result.most = std::max(result.most, std::abs(static_cast<double>(actual) - expected));
      const int steps = std::abs(step_of(actual) - step_of(expected));
      result.steps = std::max(result.steps, steps);
      result.unequal += steps > 0 ? 1 : 0;
    }
  }
  return result;
}

void print(const Difference& difference, std::size_t values, bool passed, bool as_json) {
  char most[32];
  std::snprintf(most, sizeof most, "%.3g", difference.most);
  if (as_json) {
    std::cout << "{\"passed\": " << (passed ? "true" : "false") << ", \"max_abs\": " << most
              << ", \"max_steps\": " << difference.steps << ", \"unequal\": " << difference.unequal
              << ", \"values\": " << values << "}\n";
    return;
  }
  std::cout << (passed ? "agrees" : "does not agree") << ": at most " << most
            << " of full range, " << difference.steps << " eight-bit steps; " << difference.unequal
            << " of " << values << " values differ after rounding\n";
}

int selftest(const detail::Arguments& arguments) {
  if (arguments.others.size() != 1) detail::misuse("give a BUNDLE; see --help");
  const double tolerance = arguments.has("tolerance") ? arguments.real("tolerance") : 1e-4;
  const auto steps = static_cast<int>(arguments.whole("steps", 1, 255));
  const Bundle bundle = Bundle::open(arguments.others[0]);
  bundle.check_files();
  const Case golden = read_case(bundle);
  const Array expected = read_array(bundle.read("golden/output.npy"), "golden/output.npy");
  if (expected.shape != std::vector<std::int64_t>{3, golden.size.height, golden.size.width}) {
    refuse("golden/output.npy is not of the size that golden/case.json states");
  }
  const detail::PngPicture picture =
      detail::read_png(bundle.read("golden/input.png"), "golden/input.png");
  if (picture.channels != 3 || picture.depth != 8) {
    refuse("golden/input.png is not RGB of 8 bits");
  }
  const Upscaler upscaler = Upscaler::open(bundle, detail::settings_of(arguments));
  const Difference difference =
      compare(output_of(upscaler, picture, golden), expected, golden.size);
  const bool passed =
      difference.finite && difference.most <= tolerance && difference.steps <= steps;
  const auto values = static_cast<std::size_t>(golden.size.height * golden.size.width * 3);
  print(difference, values, passed, arguments.has("json"));
  return passed ? FLOWSR_DONE : FLOWSR_PARITY;
}

}  // namespace

int main(int count, char** words) {
  return flowsr::detail::run_command("flowsr-selftest", [&] {
    const flowsr::detail::Arguments arguments(
        count, words, flowsr::detail::with_settings({"tolerance", "steps"}),
        {"json", "version", "help"});
    if (arguments.has("help")) {
      std::cout << kHelp;
      return 0;
    }
    if (arguments.has("version")) {
      std::cout << "flowsr-selftest " << flowsr::version() << '\n';
      return 0;
    }
    return selftest(arguments);
  });
}
