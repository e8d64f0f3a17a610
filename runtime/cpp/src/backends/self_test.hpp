/// Run a bundle's golden pair on a session once, and refuse a session that misses it.
#ifndef FLOWSR_SELF_TEST_HPP
#define FLOWSR_SELF_TEST_HPP

#include <string>

#include "backends/session.hpp"

namespace flowsr::detail {

/// Tests a session, or finds that it has passed before; a miss is tested again every time.
///
/// Returns "" for a test that passed, else the reason why it was not run. Throws Error: parity
/// for a miss, bundle for a damaged golden pair.
std::string self_test(const Bundle& bundle, Session& session, const Settings& settings);

}  // namespace flowsr::detail

#endif  // FLOWSR_SELF_TEST_HPP
