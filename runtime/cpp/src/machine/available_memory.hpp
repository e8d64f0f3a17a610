/// The memory that this machine and its containers can still give.
#ifndef FLOWSR_AVAILABLE_MEMORY_HPP
#define FLOWSR_AVAILABLE_MEMORY_HPP

#include <cstdint>
#include <optional>
#include <string>

#include "flowsr/flowsr.hpp"

namespace flowsr::detail {

/// Returns the bytes that the cgroups of this process and the machine can still give; none if
/// that is not known. The first two arguments are those of `cgroups`, `meminfo` is the kernel's
/// file with the memory of the machine.
std::optional<std::int64_t> available_memory(const std::string& membership,
                                             const std::string& mount,
                                             const std::string& meminfo);

/// Throws Error (memory) if a picture and its result take more than is available, with the
/// bytes of a pixel: channels times bytes per channel.
void check_available(Size source, Size target, int pixel_bytes);

}  // namespace flowsr::detail

#endif  // FLOWSR_AVAILABLE_MEMORY_HPP
