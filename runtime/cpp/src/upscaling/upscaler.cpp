#include <algorithm>
#include <new>
#include <optional>

#include "backends/backends.hpp"
#include "engines/engines.hpp"
#include "bundle/manifest.hpp"
#include "upscaling/noise.hpp"
#include "backends/self_test.hpp"
#include "upscaling/tile_loop.hpp"

namespace flowsr {

using namespace detail;

struct Upscaler::State {
  Bundle bundle;
  Settings settings;
  std::unique_ptr<Session> session;
  string untested;
  string choice;
  vector<string> passed_over;

  template <class T>
  Size upscale(const T* image, Size source, const Target& target, T* result,
               const Request& request, SharedFeatures* shared = nullptr) const {
    const Manifest& manifest = bundle.manifest();
    const int channels = request.channels;
    if (channels < 1 || channels > 4) {
      throw Error(Code::usage,
                  "channels must be from 1 to 4, got " + std::to_string(channels));
    }
    const Size requested = bundle.target(source, target);
    check_pixels(image, source.height * source.width * channels, manifest, request);
    const Noise noise = noise_of(manifest, *session, request);
    const TilePlanner planner(manifest, settings, session->limits(), source, requested);
    const bool on_engine = session->limits() != nullptr;
    const Plan plan = planner.plan(budget_of(manifest, settings, on_engine));
    try {
      const Channels<T> split(image, source, channels);
      TileLoop<T> run(manifest, *session, split, source, planner, plan, requested, request,
                      noise, shared);
      run.run(result);
      if (!split.alpha.empty()) resize_alpha(split.alpha, source, result, requested, channels);
      const string values = run.out_of_range();
      if (!values.empty() && request.warn) {
        request.warn("the inverse of the flow may have exploded: " + values);
      }
      const string guarded = run.guarded();
      if (!guarded.empty() && request.warn) request.warn(guarded);
    } catch (const std::bad_alloc&) {
      throw Error(Code::memory, "an output of " + size_text(requested) + " does not fit in memory");
    }
    return requested;
  }

  /// Upscales an image to several sizes; the features of a whole image are computed once.
  template <class T>
  vector<Size> upscale_all(const T* image, Size source, const vector<Target>& targets,
                           const vector<T*>& results, const Request& request) const {
    if (targets.empty() || targets.size() != results.size()) {
      throw Error(Code::usage, "targets and results must be as many, and at least one, got " +
                                   std::to_string(targets.size()) + " and " +
                                   std::to_string(results.size()));
    }
    string reason = session->why_not_shared();
    for (const Target& target : targets) {  // refuses any of them before slow work
      const Plan plan = plan_of(source, target);
      if (reason.empty() && plan.tiles() > 1) {
        reason = "an output of " + size_text(bundle.target(source, target)) +
                 " needs tiles, whose encoder runs again; a larger memory budget avoids them";
      }
    }
    if (!reason.empty() && targets.size() > 1 && request.warn) request.warn(reason);
    SharedFeatures shared;
    vector<Size> sizes;
    for (size_t i = 0; i < targets.size(); ++i) {
      sizes.push_back(upscale(image, source, targets[i], results[i], request, &shared));
    }
    return sizes;
  }

  Plan plan_of(Size source, const Target& target) const {
    const Manifest& manifest = bundle.manifest();
    const Size requested = bundle.target(source, target);
    const TilePlanner planner(manifest, settings, session->limits(), source, requested);
    return planner.plan(budget_of(manifest, settings, session->limits() != nullptr));
  }
};

Upscaler::Upscaler(std::unique_ptr<State> state) : state_(std::move(state)) {}
Upscaler::Upscaler(Upscaler&&) noexcept = default;
Upscaler& Upscaler::operator=(Upscaler&&) noexcept = default;
Upscaler::~Upscaler() = default;

Upscaler Upscaler::open(const string& bundle, const Settings& settings) {
  return retried([&] { return opened(Bundle::open(bundle), settings); });
}

Upscaler Upscaler::open(const Bundle& bundle, const Settings& settings) {
  try {
    return opened(bundle, settings);
  } catch (const Replaced&) {
    return open(bundle.path(), settings);
  }
}

Upscaler Upscaler::opened(const Bundle& bundle, const Settings& settings) {
  const vector<Settings> all = candidates(bundle, settings);
  const bool alike = std::all_of(all.begin(), all.end(), [&all](const Settings& each) {
    return each.backend == all[0].backend;
  });
  vector<string> passed_over;
  std::optional<Error> first;
  for (const Settings& each : all) {
    try {
      std::unique_ptr<Session> session = open_session(bundle, each);
      string untested = each.self_test ? self_test(bundle, *session, each)
                                       : "the self-test was switched off";
      return Upscaler(std::make_unique<State>(State{bundle, each, std::move(session),
                                                    std::move(untested), label(each),
                                                    std::move(passed_over)}));
    } catch (const Damaged&) {  // never hidden by another way to run the bundle
      throw;
    } catch (const Replaced&) {  // read again by the caller
      throw;
    } catch (const Error& error) {
      const Code code = error.code();
      const bool passes = code == Code::backend || code == Code::bundle || code == Code::parity;
      if (!passes) throw;
      if (!first) first = error;
      if (&each == &all.back()) throw alike ? *first : error;
      passed_over.push_back(label(each) + ": " + error.what());
    }
  }
  throw Error(Code::backend, "this library was built without a backend");
}

const Bundle& Upscaler::bundle() const { return state_->bundle; }

const string& Upscaler::untested() const { return state_->untested; }

const string& Upscaler::choice() const { return state_->choice; }

const vector<string>& Upscaler::passed_over() const { return state_->passed_over; }

Size Upscaler::target(Size source, const Target& target) const {
  return state_->bundle.target(source, target);
}

Plan Upscaler::plan(Size source, const Target& target) const {
  return state_->plan_of(source, target);
}

Size Upscaler::upscale(const std::uint8_t* image, Size source, const Target& target,
                       std::uint8_t* result, const Request& request) const {
  return state_->upscale(image, source, target, result, request);
}

Size Upscaler::upscale(const std::uint16_t* image, Size source, const Target& target,
                       std::uint16_t* result, const Request& request) const {
  return state_->upscale(image, source, target, result, request);
}

Size Upscaler::upscale(const float* image, Size source, const Target& target, float* result,
                       const Request& request) const {
  return state_->upscale(image, source, target, result, request);
}

vector<Size> Upscaler::upscale(const std::uint8_t* image, Size source,
                               const vector<Target>& targets,
                               const vector<std::uint8_t*>& results,
                               const Request& request) const {
  return state_->upscale_all(image, source, targets, results, request);
}

vector<Size> Upscaler::upscale(const std::uint16_t* image, Size source,
                               const vector<Target>& targets,
                               const vector<std::uint16_t*>& results,
                               const Request& request) const {
  return state_->upscale_all(image, source, targets, results, request);
}

vector<Size> Upscaler::upscale(const float* image, Size source, const vector<Target>& targets,
                               const vector<float*>& results, const Request& request) const {
  return state_->upscale_all(image, source, targets, results, request);
}

string version() { return FLOWSR_VERSION; }

}  // namespace flowsr
