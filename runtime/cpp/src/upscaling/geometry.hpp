/// Output sizes, and the input pixels that a window of the output needs, in exact integers.
#ifndef FLOWSR_GEOMETRY_HPP
#define FLOWSR_GEOMETRY_HPP

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flowsr/flowsr.hpp"

namespace flowsr::detail {

using std::int64_t;
using std::size_t;
using std::string;
using std::vector;

/// Returns a size with its width first, as in 1920x1080.
string size_text(Size size);

inline int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

/// Refuses an input size that is empty or too large.
void check_source(Size source);

/// Returns the output size of a scale.
Size scaled_size(Size source, const Scale& scale);

/// Returns the size that a caller requests, none for a target without scale and size.
std::optional<Size> requested_size(Size source, const Target& target);

/// Returns a size whose sides are rounded up to multiples.
Size padded_size(Size source, int64_t multiple);

/// Returns the extent that covers a whole axis.
Extent whole_extent(int64_t source, int64_t target);

/// Returns the window and the input pixels that output pixels [begin, end) depend on.
Extent extent_around(int64_t begin, int64_t end, int64_t source, int64_t target,
                     const Halo& halo);

/// Returns a window of output pixels, its beginning aligned, and the input pixels that it
/// depends on; for graphs without a ratio.
Extent extent_of(int64_t out_begin, int64_t out_end, int64_t source, int64_t target,
                 const Halo& halo);

/// Returns the graph's `geometry` input.
vector<int64_t> geometry_of(const Extent& rows, const Extent& columns);

}  // namespace flowsr::detail

#endif  // FLOWSR_GEOMETRY_HPP
