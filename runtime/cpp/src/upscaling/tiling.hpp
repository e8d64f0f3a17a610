/// Plan tiles within a memory budget.
#ifndef FLOWSR_TILING_HPP
#define FLOWSR_TILING_HPP

#include "upscaling/geometry.hpp"
#include "backends/session.hpp"

namespace flowsr::detail {

/// One axis split into pieces, and the figures that such splits are compared by.
struct AxisSplit {
  vector<Piece> pieces;
  int64_t pixels = 0, patches = 0;  // of the largest piece
  int64_t total_pixels = 0, total_patches = 0;
  MatchingProfiles matching_profiles;
};

/// Chooses the tiles of one image that fit in memory and compute the least in all, halos
/// included, which favors few, large and nearly square tiles.
class TilePlanner {
 public:
  TilePlanner(const Manifest& manifest, const Settings& settings, const ProfileLimits* limits,
              Size source, Size target);

  /// Chooses tiles for output rows from `top` on, where a piece of an earlier plan begins.
  Plan plan(int64_t budget, int64_t top = 0) const;

  /// Chooses tiles of about half the memory for the rest of an image. Throws (memory) if there
  /// are no smaller ones.
  Plan smaller(const Plan& plan, int64_t top) const;

 private:
  AxisSplit split(int axis, int64_t count, int64_t begin) const;
  /// The same planner for tiles of any sizes, where tiles of one size do not fit.
  TilePlanner of_any_sizes() const;
  vector<AxisSplit> splits(int axis, int64_t begin) const;
  int64_t run_bytes(const AxisSplit& row, const AxisSplit& column) const;
  int64_t least(const vector<AxisSplit>& rows, const vector<AxisSplit>& columns) const;
  double work(const AxisSplit& row, const AxisSplit& column) const;
  Plan plan_of(const AxisSplit& row, const AxisSplit& column) const;
  [[noreturn]] void refuse_whole(int64_t needed, int64_t budget) const;
  [[noreturn]] void refuse_uncovered() const;

  Size source_, target_;  // of a bundle of one scale, those of the padded image
  const Halo& halo_;
  const Memory& memory_;
  bool whole_only_;
  const ProfileLimits* limits_;
  int64_t fade_;
  bool equal_;  // all tiles of an image have one size, where such tiles fit
};

/// Returns the output pixels of the largest tile without its halo, as in 512x384.
string largest_tile(const Plan& plan);

/// Returns the weights of a piece's pixels; those of two pieces sum to one wherever they meet.
vector<float> weights_of(const Piece& piece);

/// Returns the bytes that one run may take. An engine takes the memory of its profile anyway.
int64_t budget_of(const Manifest& manifest, const Settings& settings, bool on_engine = false);

}  // namespace flowsr::detail

#endif  // FLOWSR_TILING_HPP
