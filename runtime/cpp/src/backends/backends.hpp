/// The backends of this build, and the choice among them.
#ifndef FLOWSR_BACKENDS_HPP
#define FLOWSR_BACKENDS_HPP

#include <memory>
#include <string>
#include <vector>

#include "backends/session.hpp"

namespace flowsr::detail {

/// Returns the ways to run a bundle that settings allow, the best first, as in Python: engines
/// before the graph, and those of a GPU before those of a CPU. Of Inductor's engines that are
/// not named only those that have run count.
///
/// Returns: Settings that name their backend, and with Inductor the provider.
/// Throws Error: usage if a setting is invalid, backend if this build lacks the backend, bundle
/// if a description of an engine is damaged.
std::vector<Settings> candidates(const Bundle& bundle, const Settings& settings);

/// Loads a bundle's model with one of `candidates`. Throws Error: backend, bundle or usage.
std::unique_ptr<Session> open_session(const Bundle& bundle, const Settings& settings);

/// Returns backend, provider, device and precision in a few words.
std::string label(const Settings& settings);

}  // namespace flowsr::detail

#endif  // FLOWSR_BACKENDS_HPP
