#include "upscaling/tiling.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "bundle/manifest.hpp"

namespace flowsr {

using namespace detail;

namespace {

constexpr int64_t kMostPieces = 4096;  // of one axis


constexpr int64_t kDefaultBudget = int64_t{1} << 30;
constexpr int64_t kEngineBudget = int64_t{16} << 30;

/// Splits one axis, from an aligned output pixel on, into pieces of nearly equal size.
vector<Piece> pieces_of(int64_t source, int64_t target, int64_t count, const Halo& halo,
                        int64_t fade, int64_t begin) {
  if (count == 1 && begin == 0) return {{whole_extent(source, target), 0, target, 0, 0}};
  const int64_t units = ceil_div(target - begin, halo.align);
  const auto beginning = [&](int64_t i) {
    return i < count ? begin + halo.align * (i * units / count) : target;
  };
  vector<Piece> pieces;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = beginning(i), after = beginning(i + 1);
    const int64_t end = std::min(target, after + fade);
    pieces.push_back({extent_around(first, end, source, target, halo), first, end,
                      first > 0 ? std::min(fade, target - first) : 0, end - after});
  }
  return pieces;
}

/// Returns the least size from `size` on that leaves a multiple of `align` before it.
int64_t up_to_end(int64_t size, int64_t whole, int64_t align) {
  return whole - std::max<int64_t>(0, whole - size) / align * align;
}

/// Grows the windows of an axis to one size, so that a GPU prepares its kernels once.
void make_equal(vector<Piece>& pieces, const Halo& halo) {
  const int64_t source = pieces.front().extent.source, target = pieces.front().extent.target;
  if (halo.ratio && target % halo.align != 0) return;
  int64_t out = 0, low = 0;
  for (const Piece& piece : pieces) out = std::max(out, piece.extent.out_size());
  out = up_to_end(out, target, halo.align);  // the last window ends with the axis
  for (Piece& piece : pieces) {
    const int64_t begin = std::min(piece.extent.out_begin, target - out), end = begin + out;
    piece.extent = halo.ratio ? Extent{source, target, begin / *halo.ratio, end / *halo.ratio,
                                       begin, end}
                              : extent_of(begin, end, source, target, halo);
    low = std::max(low, piece.extent.lr_size());
  }
  if (halo.ratio) return;
  low = up_to_end(low, source, halo.lr_align);
  for (Piece& piece : pieces) {
    piece.extent.lr_begin = std::min(piece.extent.lr_begin, source - low);
    piece.extent.lr_end = piece.extent.lr_begin + low;
  }
}

/// Returns whether runs are on a GPU.
bool on_gpu(const Settings& settings) {
  return settings.backend.rfind("tensorrt", 0) == 0 || settings.provider == "cuda";
}

/// Returns whether some profile takes every tile of two splits.
bool is_covered(const AxisSplit& row, const AxisSplit& column) {
  for (const vector<bool>& above : row.matching_profiles) {
    for (const vector<bool>& beside : column.matching_profiles) {
      bool common = false;
      for (size_t i = 0; i < above.size(); ++i) common = common || (above[i] && beside[i]);
      if (!common) return false;
    }
  }
  return true;
}

}  // namespace

TilePlanner::TilePlanner(const Manifest& manifest, const Settings& settings,
                         const ProfileLimits* limits, Size source, Size target)
    : source_(source), target_(target),
      halo_(settings.halo == HaloKind::exact ? manifest.exact : manifest.halo),
      memory_(manifest.memory), whole_only_(manifest.whole_only), limits_(limits),
      // Tiles with an exact halo agree to float rounding: there is nothing to blend.
      fade_(settings.halo == HaloKind::exact ? 0 : halo_.align),
      equal_(on_gpu(settings)) {
  if (!manifest.scale) return;
  source_ = padded_size(source, manifest.multiple);
  target_ = scaled_size(source_, *manifest.scale);
}

Plan TilePlanner::plan(int64_t budget, int64_t top) const {
  if (top == 0) {
    const AxisSplit row = split(0, 1, 0), column = split(1, 1, 0);
    const int64_t needed = run_bytes(row, column);
    if (needed <= budget && is_covered(row, column)) return plan_of(row, column);
    if (whole_only_) refuse_whole(needed, budget);
  }
  const vector<AxisSplit> rows = splits(0, top), columns = splits(1, 0);
  const AxisSplit *best_row = nullptr, *best_column = nullptr;
  for (const AxisSplit& row : rows) {
    // Work grows with the number of pieces: the first split that fits is the best.
    const auto column = std::find_if(columns.begin(), columns.end(), [&](const AxisSplit& split) {
      return run_bytes(row, split) <= budget && is_covered(row, split);
    });
    if (column == columns.end()) continue;
    if (best_row == nullptr || work(row, *column) < work(*best_row, *best_column)) {
      best_row = &row, best_column = &*column;
    }
  }
  if (best_row != nullptr) return plan_of(*best_row, *best_column);
  if (equal_) return of_any_sizes().plan(budget, top);
  const int64_t needed = least(rows, columns);
  if (needed <= budget) refuse_uncovered();
  throw Error(Code::memory, "memory_budget must be at least " + std::to_string(needed) +
                                " bytes for " + size_text(source_) + " to " +
                                size_text(target_) + ", got " + std::to_string(budget));
}

Plan TilePlanner::smaller(const Plan& plan, int64_t top) const {
  const int64_t before = plan.run_bytes;
  const int64_t needed = whole_only_ ? before : least(splits(0, top), splits(1, 0));
  if (needed >= before && equal_) return of_any_sizes().smaller(plan, top);
  if (needed >= before) {
    throw Error(Code::memory, "there are no tiles smaller than " + largest_tile(plan));
  }
  return this->plan(std::max(before - before / 2, needed), top);
}

TilePlanner TilePlanner::of_any_sizes() const {
  TilePlanner planner = *this;
  planner.equal_ = false;
  return planner;
}

AxisSplit TilePlanner::split(int axis, int64_t count, int64_t begin) const {
  const int64_t source = axis == 0 ? source_.height : source_.width;
  const int64_t target = axis == 0 ? target_.height : target_.width;
  AxisSplit result;
  result.pieces = pieces_of(source, target, count, halo_, fade_, begin);
  if (equal_) make_equal(result.pieces, halo_);
  for (const Piece& piece : result.pieces) {
    const int64_t pixels = piece.extent.lr_size();
    const int64_t patches = ceil_div(piece.extent.out_size(), halo_.patch);
    result.pixels = std::max(result.pixels, pixels);
    result.patches = std::max(result.patches, patches);
    result.total_pixels += pixels;
    result.total_patches += patches;
  }
  result.matching_profiles = limits_ == nullptr
                                 ? MatchingProfiles{{true}}
                                 : limits_->matching_profiles(axis, result.pieces);
  return result;
}

vector<AxisSplit> TilePlanner::splits(int axis, int64_t begin) const {
  const int64_t target = axis == 0 ? target_.height : target_.width;
  const int64_t units = ceil_div(target - begin, halo_.align);
  std::set<int64_t> counts;
  // As in Python: more pieces would take seconds to compare.
  const int64_t least = ceil_div(units, kMostPieces);
  for (int64_t size = least; size <= units; ++size) counts.insert(ceil_div(units, size));
  vector<AxisSplit> result;
  for (const int64_t count : counts) result.push_back(split(axis, count, begin));
  return result;
}

int64_t TilePlanner::run_bytes(const AxisSplit& row, const AxisSplit& column) const {
  return memory_.estimate(row.pixels * column.pixels, row.patches * column.patches);
}

int64_t TilePlanner::least(const vector<AxisSplit>& rows,
                           const vector<AxisSplit>& columns) const {
  int64_t result = std::numeric_limits<int64_t>::max();
  for (const AxisSplit& row : rows) {
    for (const AxisSplit& column : columns) result = std::min(result, run_bytes(row, column));
  }
  return result;
}

double TilePlanner::work(const AxisSplit& row, const AxisSplit& column) const {
  const auto pixels = static_cast<double>(row.total_pixels * column.total_pixels);
  const auto patches = static_cast<double>(row.total_patches * column.total_patches);
  return pixels * memory_.bytes_per_pixel + patches * memory_.bytes_per_patch;
}

Plan TilePlanner::plan_of(const AxisSplit& row, const AxisSplit& column) const {
  return {row.pieces, column.pieces, run_bytes(row, column)};
}

void TilePlanner::refuse_whole(int64_t needed, int64_t budget) const {
  if (needed <= budget) refuse_uncovered();
  throw Error(Code::memory, "memory_budget must be at least " + std::to_string(needed) +
                                " bytes for " + size_text(source_) + ", got " +
                                std::to_string(budget) +
                                "; this model computes whole pictures only");
}

void TilePlanner::refuse_uncovered() const {
  refuse("no engine takes " + size_text(source_) + " to " + size_text(target_) +
         ", whole or in tiles; build an engine whose profile takes " + size_text(source_) +
         ", or use backend onnxruntime");
}

string detail::largest_tile(const Plan& plan) {
  Size size;
  for (const Piece& row : plan.rows) size.height = std::max(size.height, row.end - row.begin);
  for (const Piece& column : plan.columns) {
    size.width = std::max(size.width, column.end - column.begin);
  }
  return size_text(size);
}

vector<float> detail::weights_of(const Piece& piece) {
  const auto ramp = [](int64_t place, int64_t length) {
    return static_cast<float>((static_cast<double>(place) + 0.5) / static_cast<double>(length));
  };
  vector<float> weights(static_cast<size_t>(piece.end - piece.begin), 1.0f);
  for (int64_t i = 0; i < piece.fade_in; ++i) {
    weights[static_cast<size_t>(i)] = ramp(i, piece.fade_in);
  }
  const int64_t begin = piece.end - piece.begin - piece.fade_out;
  for (int64_t i = 0; i < piece.fade_out; ++i) {
    weights[static_cast<size_t>(begin + i)] = 1.0f - ramp(i, piece.fade_out);
  }
  return weights;
}

int64_t detail::budget_of(const Manifest& manifest, const Settings& settings,
                          bool on_engine) {
  if (settings.memory_budget < 0) {
    throw Error(Code::usage, "memory_budget must be a whole number of bytes above 0, got " +
                                 std::to_string(settings.memory_budget));
  }
  if (settings.memory_budget > 0) return settings.memory_budget;
  const int64_t own = manifest.memory.budget_bytes.value_or(kDefaultBudget);
  return on_engine ? std::max(own, kEngineBudget) : own;
}

Plan Bundle::plan(Size source, const Target& target, const Settings& settings) const {
  const Size requested = this->target(source, target);
  const TilePlanner planner(manifest_, settings, nullptr, source, requested);
  return planner.plan(budget_of(manifest_, settings));
}

}  // namespace flowsr
