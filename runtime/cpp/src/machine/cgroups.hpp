/// The cgroups of this process, which limit its cores and its memory.
#ifndef FLOWSR_CGROUPS_HPP
#define FLOWSR_CGROUPS_HPP

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace flowsr::detail {

/// Returns the folders of this process's cgroups of a controller and of their ancestors, of
/// version 1 and version 2; some may not exist. `membership` is the file that lists the cgroups
/// of this process, `mount` the folder where the cgroup file systems are mounted.
inline std::vector<std::string> cgroups(const std::string& controller,
                                        const std::string& membership,
                                        const std::string& mount) {
  std::ifstream file(membership);
  std::istringstream fallback("0::/");
  std::istream& lines = file ? static_cast<std::istream&>(file) : fallback;
  std::vector<std::string> folders;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool listed =
        ("," + controllers + ",").find("," + controller + ",") != std::string::npos;
    if (!controllers.empty() && !listed) continue;
    // A container without a cgroup namespace sees its own cgroup at the mount point and its
    // path on the host in `membership`; folders that do not exist have no limit.
    const std::string other = controllers.empty() ? "unified" : controller;
    for (std::string own = line.substr(second + 1);; own.erase(own.rfind('/'))) {
      for (const std::string& root : {controllers, other}) {
        folders.push_back(mount + "/" + root + "/" + own);
      }
      if (own.rfind('/') == std::string::npos) break;
    }
  }
  return folders;
}

}  // namespace flowsr::detail

#endif  // FLOWSR_CGROUPS_HPP
