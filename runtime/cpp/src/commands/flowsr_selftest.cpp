// The command flowsr-selftest: compare a bundle's result with its golden output.

#include <algorithm>
#include <cmath>
#include <iostream>

#include "commands/command.hpp"
#include "backends/golden.hpp"
#include "bundle/manifest.hpp"

namespace {

using namespace flowsr;

constexpr const char* kHelp = R"(Usage: flowsr-selftest BUNDLE [OPTIONS]

Check every file of a bundle, upscale its golden picture, and compare the result with the
bundle's golden output.

  --tolerance T        largest difference in units of full range  [0.0001]
  --steps N            largest difference in 8-bit steps, after rounding  [1]
  --backend NAME       auto, onnxruntime, openvino, tensorrt, tensorrt_rtx or inductor; auto is
                       an engine of the bundle that fits, else the first in this build  [auto]
  --provider NAME      provider for onnxruntime and inductor: cpu or cuda  [cpu]
  --device N           GPU index  [0]
  --threads N          CPU threads  [all usable cores]
  --precision NAME     precision of the graph  [fp32]
  --max-memory BYTES     memory limit of one run, such as 800M
  --tf32                 float32 graphs in TF32 on cuda
  --convolution-search heuristic|exhaustive
                         choice of convolutions on cuda  [heuristic]
  --json               print one JSON object
  --version, --help

Exit codes: 0 it agrees, 1 failure, 2 usage, 3 it does not agree, 4 a backend or device is
missing, 5 the bundle is damaged or holds no golden picture, 6 out of memory.

Example: flowsr-selftest edsr.bundle
)";

/// Returns the output of the model in units of full range, unclamped if the graph is.
std::vector<float> output_of(const Upscaler& upscaler, const detail::GoldenPair& golden) {
  const std::size_t count = golden.output.size();
  std::vector<float> result(count);
  Request request;
  request.seed = golden.seed;
  request.temperature = golden.temperature;
  if (upscaler.bundle().manifest().eight_bit) {
    std::vector<std::uint8_t> bytes(count);
    upscaler.upscale(golden.picture.data(), golden.source, golden.size, bytes.data(), request);
    std::transform(bytes.begin(), bytes.end(), result.begin(),
                   [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0f; });
    return result;
  }
  std::vector<float> image(golden.picture.size());
  std::transform(golden.picture.begin(), golden.picture.end(), image.begin(),
                 [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0f; });
  request.clamp = false;
  upscaler.upscale(image.data(), golden.source, golden.size, result.data(), request);
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

Difference compare(const std::vector<float>& output, const std::vector<float>& golden) {
  Difference result;
  for (std::size_t i = 0; i < golden.size(); ++i) {
    result.finite = result.finite && std::isfinite(output[i]) && std::isfinite(golden[i]);
    result.most = std::max(result.most, std::abs(static_cast<double>(output[i]) - golden[i]));
    const int steps = std::abs(step_of(output[i]) - step_of(golden[i]));
    result.steps = std::max(result.steps, steps);
    result.unequal += steps > 0 ? 1 : 0;
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
  const auto [bundle, golden] = detail::retried([&] {
    const Bundle opened = Bundle::open(arguments.others[0]);
    opened.check_files();
    return std::pair(opened, detail::read_golden_pair(opened));
  });
  if (!golden) throw Error(Code::bundle, bundle.path() + " holds no golden pair");
  Settings settings = detail::settings_of(arguments);
  settings.self_test = false;  // the comparison below is one
  const Upscaler upscaler = Upscaler::open(bundle, settings);
  const Difference difference = compare(output_of(upscaler, *golden), golden->output);
  const bool passed =
      difference.finite && difference.most <= tolerance && difference.steps <= steps;
  print(difference, golden->output.size(), passed, arguments.has("json"));
  return passed ? FLOWSR_DONE : FLOWSR_PARITY;
}

}  // namespace

int main(int count, char** words) {
  return flowsr::detail::run_command("flowsr-selftest", [&] {
    const flowsr::detail::Arguments arguments(
        count, words, flowsr::detail::with_settings({"tolerance", "steps"}),
        {"json", "tf32", "version", "help"});
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
