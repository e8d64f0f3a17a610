#include "backends/self_test.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "backends/golden.hpp"
#include "machine/machine.hpp"
#include "upscaling/tile_loop.hpp"
#include "backends/verdicts.hpp"

namespace flowsr::detail {

namespace {

constexpr std::int64_t kNoLimit = std::int64_t{1} << 62;

/// Largest accepted difference; the limits of the Python runtime.
struct Tolerance {
  double max_abs = std::numeric_limits<double>::infinity();
  double p999_steps = std::numeric_limits<double>::infinity();
  double psnr = -std::numeric_limits<double>::infinity();
};

Tolerance tolerance_of(const Settings& settings, bool loosened, bool eight_bit, double max_abs) {
  Tolerance tolerance;
  if (settings.precision == "int8" || settings.precision == "fp8") {
    tolerance.psnr = 38;
  } else if (settings.precision != "fp32" || loosened) {
    tolerance.psnr = 50, tolerance.p999_steps = 2;
  } else {
    // One eight-bit step: a value near a half may be rounded either way.
    tolerance.max_abs = eight_bit ? 1.001 / 255 : max_abs;
  }
  return tolerance;
}

template <class T>
std::vector<T> run(const Bundle& bundle, Session& session, const GoldenPair& golden,
                   const std::vector<T>& image, const TilePlanner& planner, const Plan& plan) {
  Request request;
  request.seed = golden.seed;
  request.temperature = golden.temperature;
  request.clamp = false;
  std::vector<T> result(golden.output.size());
  const Channels<T> channels(image.data(), golden.source, 3);
  const Noise noise = noise_of(bundle.manifest(), session, request);
  TileLoop<T> loop(bundle.manifest(), session, channels, golden.source, planner, plan,
                   golden.size, request, noise);
  loop.run(result.data());
  return result;
}

/// Returns the output of a session in units of full range.
std::vector<float> output_of(const Bundle& bundle, Session& session, const GoldenPair& golden,
                             const TilePlanner& planner, const Plan& plan) {
  const auto in_range_of = [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0f; };
  std::vector<float> result(golden.output.size());
  if (bundle.manifest().eight_bit) {
    const auto bytes = run(bundle, session, golden, golden.picture, planner, plan);
    std::transform(bytes.begin(), bytes.end(), result.begin(), in_range_of);
    return result;
  }
  std::vector<float> image(golden.picture.size());
  std::transform(golden.picture.begin(), golden.picture.end(), image.begin(), in_range_of);
  return run(bundle, session, golden, image, planner, plan);
}

/// The 99.9th percentile, interpolated as NumPy does.
double p999(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double place = 0.999 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - static_cast<double>(below));
}

std::string missed(const char* name, const char* word, double limit, double value) {
  return std::string(name) + " must be at " + word + " " + short_text(limit, 3) + ", got " +
         short_text(value, 3);
}

Verdict judge(const std::vector<float>& output, const std::vector<float>& golden,
              const Tolerance& tolerance) {
  std::vector<double> differences(golden.size());
  double largest = 0, squares = 0;
  for (std::size_t i = 0; i < golden.size(); ++i) {
    differences[i] = std::abs(static_cast<double>(output[i]) - golden[i]);
    if (!std::isfinite(differences[i])) return {false, "the output holds NaN or infinity"};
    largest = std::max(largest, differences[i]);
    squares += differences[i] * differences[i];
  }
  const double mean = squares / static_cast<double>(golden.size());
  const double psnr = -10 * std::log10(mean);  // infinite where nothing differs
  const double steps = 255 * p999(std::move(differences));
  std::string reasons;
  const auto add = [&reasons](const std::string& reason) {
    reasons += (reasons.empty() ? "" : "; ") + reason;
  };
  if (!(largest <= tolerance.max_abs)) {
    add(missed("max error", "most", tolerance.max_abs, largest));
  }
  if (!(steps <= tolerance.p999_steps)) {
    add(missed("p99.9 error in steps", "most", tolerance.p999_steps, steps));
  }
  if (!(psnr >= tolerance.psnr)) add(missed("PSNR", "least", tolerance.psnr, psnr));
  const bool passed = reasons.empty();
  return {passed, passed ? "max error " + short_text(largest, 2) : reasons};
}

}  // namespace

std::string self_test(const Bundle& bundle, Session& session, const Settings& settings) {
  const Manifest& manifest = bundle.manifest();
  const auto output = manifest.files.find("golden/output.npy");
  if (manifest.files.count("golden/case.json") == 0 || output == manifest.files.end()) {
    return "the bundle holds no golden pair";
  }
  const SessionFacts facts = session.facts();
  const bool on_gpu = facts.provider == "cuda";
  const bool loosened = settings.tf32 && on_gpu && settings.precision == "fp32";
  const bool hinted = facts.backend == "openvino" && settings.precision == "bf16";
  const std::string model = bundle.model_name(hinted ? "fp32" : settings.precision);
  const VerdictKey key = {
      {"interface", "cpp"},
      {"model", manifest.files.at(model).sha256},
      {"golden", output->second.sha256},
      {"backend", facts.backend},
      {"provider", facts.provider},
      {"library", facts.library},
      {"device", device_name(on_gpu, settings.device)},
      {"precision", settings.precision},
      {"options", loosened ? "tf32" : ""},
      {"engines", facts.engines},
  };
  const std::optional<Verdict> kept = kept_verdict(key);
  if (kept && kept->passed) return "";
  const std::optional<GoldenPair> golden = read_golden_pair(bundle);
  Settings exact = settings;
  exact.halo = HaloKind::exact;
  const TilePlanner planner(manifest, exact, session.limits(), golden->source, golden->size);
  Plan plan;
  try {
    plan = planner.plan(kNoLimit);
  } catch (const Error& error) {  // no profile of an engine takes it
    if (error.code() != Code::bundle) throw;
    return "no profile takes the golden picture or tiles of it";
  }
  Verdict verdict;
  try {
    const Tolerance tolerance =
        tolerance_of(settings, loosened, manifest.eight_bit, golden->max_abs);
    verdict = judge(output_of(bundle, session, *golden, planner, plan), golden->output,
                    tolerance);
  } catch (const Error& error) {
    if (error.code() != Code::parity) throw;
    verdict = {false, error.what()};
  }
  keep_verdict(key, verdict);
  if (verdict.passed) return "";
  throw Error(Code::parity, facts.backend + " " + facts.provider + " (" + facts.library +
                                ") misses the golden pair of " + bundle.path() + ": " +
                                verdict.measured + "; nothing is computed with it");
}

}  // namespace flowsr::detail
