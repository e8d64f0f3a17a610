/// Keep the verdicts of self-tests in the user's cache, as the Python runtime does.
#ifndef FLOWSR_VERDICTS_HPP
#define FLOWSR_VERDICTS_HPP

#include <map>
#include <optional>
#include <string>

namespace flowsr::detail {

/// Facts that decide the result of a self-test, by name.
using VerdictKey = std::map<std::string, std::string>;

struct Verdict {
  bool passed = false;
  std::string measured;  ///< The largest difference in words.
};

/// Returns the verdict that was kept for a key, none without a readable one.
std::optional<Verdict> kept_verdict(const VerdictKey& key);

/// Keeps a verdict; not without a home, or where the folder cannot be written.
void keep_verdict(const VerdictKey& key, const Verdict& verdict);

}  // namespace flowsr::detail

#endif  // FLOWSR_VERDICTS_HPP
