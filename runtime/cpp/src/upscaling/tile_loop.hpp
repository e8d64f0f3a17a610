/// Run the tiles of one image through a model and join them.
#ifndef FLOWSR_TILE_LOOP_HPP
#define FLOWSR_TILE_LOOP_HPP

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "bundle/manifest.hpp"
#include "upscaling/noise.hpp"
#include "upscaling/pixels.hpp"
#include "upscaling/tiling.hpp"

namespace flowsr::detail {

constexpr float kLeast = -1.0f, kMost = 2.0f;  // a whole range beyond what images hold
// A guarded graph keeps the extreme value of a patch at -0.1 or 1.1, but for half precision.
constexpr float kGuardLeast = -0.1f + 2e-3f, kGuardMost = 1.1f - 2e-3f;

/// Values far outside of what images hold, counted and located.
struct OutOfRangeValues {
  int64_t non_finite = 0, out_of_range = 0;
  int64_t first_row = -1, last_row = -1, first_column = -1, last_column = -1;

  void add(float value, int64_t row, int64_t column) {
    if (value >= kLeast && value <= kMost) return;  // NaN compares as false
    ++(std::isfinite(value) ? out_of_range : non_finite);
    const bool first = first_row < 0;
    first_row = first ? row : std::min(first_row, row);
    last_row = std::max(last_row, row);
    first_column = first ? column : std::min(first_column, column);
    last_column = std::max(last_column, column);
  }

  string text(int64_t total) const {
    const auto share = [total](int64_t count) {
      const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total);
      return std::to_string(count) + " of " + std::to_string(total) + " values (" +
             short_text(percent, 3) + " %)";
    };
    string kinds;
    if (non_finite > 0) kinds = share(non_finite) + " are NaN or infinite";
    if (out_of_range > 0) {
      kinds += (kinds.empty() ? "" : " and ") + share(out_of_range) + " lie outside [-1, 2]";
    }
    return kinds + ", in output rows " + std::to_string(first_row) + "-" +
           std::to_string(last_row) + ", columns " + std::to_string(first_column) + "-" +
           std::to_string(last_column);
  }
};

/// Patches whose extreme value the graph's guard kept at an end of its range.
class GuardedPatches {
 public:
  GuardedPatches(bool guard, int64_t patch, Size size)
      : patch_(patch), columns_(ceil_div(size.width, patch)),
        total_(ceil_div(size.height, patch) * columns_),
        at_end_(guard ? static_cast<size_t>(total_) : 0) {}

  void add(const float* rgb, int64_t row, int64_t column) {
    if (at_end_.empty()) return;
    for (int c = 0; c < 3; ++c) {
      if (rgb[c] > kGuardLeast && rgb[c] < kGuardMost) continue;
      at_end_[static_cast<size_t>(row / patch_ * columns_ + column / patch_)] = true;
    }
  }

  /// "" without any.
  string text() const {
    const int64_t count = std::count(at_end_.begin(), at_end_.end(), true);
    if (count == 0) return "";
    const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total_);
    return "the guard kept " + std::to_string(count) + " of " + std::to_string(total_) +
           " patches (" + short_text(percent, 3) + " %) in [-0.1, 1.1]";
  }

 private:
  int64_t patch_, columns_, total_;
  vector<bool> at_end_;
};

inline const char* name_of(Kind kind) {
  return kind == Kind::float32 ? "float32" : kind == Kind::uint8 ? "uint8" : "another type";
}

inline string shape_text(const vector<int64_t>& shape) {
  string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

/// The pixels of a tile without its halo, read from the output of the session.
class TileCore {
 public:
  TileCore(Output output, const Piece& rows, const Piece& columns)
      : output_(std::move(output)),
        width_(columns.extent.out_size()),
        plane_(rows.extent.out_size() * width_),
        origin_((rows.begin - rows.extent.out_begin) * width_ + columns.begin -
                columns.extent.out_begin) {}

  bool eight_bit() const { return output_.kind == Kind::uint8; }
  std::uint8_t byte(int64_t row, int64_t column, int channel) const {
    return static_cast<const std::uint8_t*>(output_.data)[at(row, column, channel)];
  }
  /// In units of full range.
  float value(int64_t row, int64_t column, int channel) const {
    if (eight_bit()) return in_range(byte(row, column, channel));
    return static_cast<const float*>(output_.data)[at(row, column, channel)];
  }

 private:
  int64_t at(int64_t row, int64_t column, int channel) const {
    return channel * plane_ + origin_ + row * width_ + column;
  }

  Output output_;
  int64_t width_, plane_, origin_;
};

/// Runs the tiles of one image through a model and joins them.
template <class T>
class TileLoop {
 public:
  TileLoop(const Manifest& manifest, Session& session, const Channels<T>& channels,
              Size source, const TilePlanner& planner, const Plan& plan, Size size,
              const Request& request, const Noise& noise, SharedFeatures* shared = nullptr)
      : manifest_(manifest), session_(session), channels_(channels), source_(source),
        planner_(planner), plan_(plan), tiles_(plan.tiles()), size_(size), request_(request),
        noise_(noise), shared_(shared),
        guarded_(manifest.guard && !manifest.eight_bit, manifest.exact.patch, size) {}

  /// Runs the tiles and joins them into `result`, one row of tiles in memory at a time. A row
  /// that runs out of memory starts again with tiles of half the memory.
  void run(T* result) {
    vector<float> shared;  // pixels that fade into the next row of tiles
    for (size_t next = 0; next < plan_.rows.size();) {
      const Piece row = plan_.rows[next];
      try {
        run_row(row, shared, result);
        ++next;
      } catch (const Error& error) {
        if (error.code() != Code::memory) throw;
        shrink(row.begin, error.what());
        next = 0;
      } catch (const std::bad_alloc&) {
        shrink(row.begin, "a tile does not fit in memory");
        next = 0;
      }
    }
  }

  /// Describes the values far out of range, "" without any. Eight bits never are.
  string out_of_range() const {
    if (manifest_.eight_bit || out_of_range_.first_row < 0) return "";
    return out_of_range_.text(size_.height * size_.width * 3);
  }

  /// Describes the patches that the graph's guard shrank, "" without any.
  string guarded() const { return guarded_.text(); }

 private:
  void put(const float* rgb, int64_t row, int64_t column, T* result) {
    for (int c = 0; c < 3; ++c) out_of_range_.add(rgb[c], row, column);
    guarded_.add(rgb, row, column);
    T* pixel = result + (row * size_.width + column) * channels_.count;
    if (channels_.gray()) {
      *pixel = stored<T>(luma(rgb), request_);
      return;
    }
    for (int c = 0; c < 3; ++c) pixel[c] = stored<T>(rgb[c], request_);
  }

  void run_row(const Piece& row, vector<float>& shared, T* result) {
    if (plan_.columns.size() == 1 && row.fade_in == 0 && row.fade_out == 0) {
      put_all(compute(row, plan_.columns[0]), row, result);
      return;
    }
    const int64_t width = plan_.columns.back().end;
    vector<float> band = shared;
    band.resize(static_cast<size_t>((row.end - row.begin) * width * 3), 0.0f);
    for (const Piece& column : plan_.columns) {
      add(compute(row, column), row, column, width, band);
    }
    const int64_t finished = row.end - row.begin - row.fade_out;
    for (int64_t y = 0; y < std::min(finished, size_.height - row.begin); ++y) {
      for (int64_t x = 0; x < size_.width; ++x) {
        put(band.data() + (y * width + x) * 3, row.begin + y, x, result);
      }
    }
    shared.assign(band.begin() + finished * width * 3, band.end());
  }

  /// Continues with smaller tiles from an output row on, and warns.
  void shrink(int64_t top, const string& reason) {
    const string before = largest_tile(plan_);
    try {
      plan_ = planner_.smaller(plan_, top);
    } catch (const Error& refusal) {
      throw Error(Code::memory, "out of memory: " + reason + "; " + refusal.what());
    }
    tiles_ = done_ + plan_.tiles();
    if (!request_.warn) return;
    request_.warn("out of memory with tiles of " + before + " output pixels, going on with " +
                  largest_tile(plan_) + " from row " + std::to_string(top));
  }

  void put_all(const TileCore& core, const Piece& row, T* result) {
    for (int64_t y = 0; y < std::min(row.end, size_.height) - row.begin; ++y) {
      for (int64_t x = 0; x < size_.width; ++x) {
        const float rgb[3] = {core.value(y, x, 0), core.value(y, x, 1), core.value(y, x, 2)};
        put(rgb, row.begin + y, x, result);
      }
    }
  }

  void add(const TileCore& core, const Piece& row, const Piece& column, int64_t width,
           vector<float>& band) const {
    const vector<float> down = weights_of(row), across = weights_of(column);
    for (int64_t y = 0; y < row.end - row.begin; ++y) {
      float* out = band.data() + (y * width + column.begin) * 3;
      for (int64_t x = 0; x < column.end - column.begin; ++x) {
        const float weight = down[static_cast<size_t>(y)] * across[static_cast<size_t>(x)];
        for (int channel = 0; channel < 3; ++channel) {
          *out++ += core.value(y, x, channel) * weight;
        }
      }
    }
  }

  TileCore compute(const Piece& row, const Piece& column) {
    const Extent &rows = row.extent, &columns = column.extent;
    const vector<Input> inputs = feeds(rows, columns);
    Output output = run_tile(inputs);
    const vector<int64_t> expected = {1, 3, rows.out_size(), columns.out_size()};
    if (output.shape != expected) {
      refuse("model output must have shape " + shape_text(expected) + ", got " +
             shape_text(output.shape));
    }
    const Kind expected_kind = manifest_.eight_bit ? Kind::uint8 : Kind::float32;
    if (output.kind != expected_kind) {
      refuse(string("model output must be ") + name_of(expected_kind) + ", got " +
             name_of(output.kind));
    }
    TileCore core(std::move(output), row, column);
    check_finite(core, row, column);
    ++done_;
    if (request_.progress) request_.progress(done_, tiles_);
    return core;
  }

  Output run_tile(const vector<Input>& inputs) {
    if (noise_.prior_weight) {
      return session_.run_further(manifest_.latent_graphs->sample, inputs);
    }
    return shared_ == nullptr ? session_.run(inputs) : session_.run_shared(inputs, *shared_);
  }

  /// Refuses NaN and infinity at once, except in the pixels that are cropped away.
  void check_finite(const TileCore& core, const Piece& row, const Piece& column) const {
    if (core.eight_bit()) return;
    OutOfRangeValues values;
    const int64_t height = std::min(row.end, size_.height) - row.begin;
    const int64_t width = std::min(column.end, size_.width) - column.begin;
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (int channel = 0; channel < 3; ++channel) {
          values.add(core.value(y, x, channel), row.begin + y, column.begin + x);
        }
      }
    }
    if (values.non_finite == 0) return;
    const string tile = tiles_ == 1 ? ""
                                    : " in tile " + std::to_string(done_ + 1) + " of " +
                                          std::to_string(tiles_);
    throw Error(Code::parity, "the model returned NaN or infinity" + tile + ": " +
                                  values.text(height * width * 3));
  }

  /// Returns the graph's inputs for a tile; they lie in this object.
  vector<Input> feeds(const Extent& rows, const Extent& columns) {
    vector<Input> inputs;
    const auto feed = [&inputs](const string& name, Kind kind, vector<int64_t> shape,
                                const auto& values) {
      const size_t bytes = values.size() * sizeof(values[0]);
      inputs.push_back({name, kind, std::move(shape), values.data(), bytes});
    };
    const vector<int64_t> shape = {1, 3, rows.lr_size(), columns.lr_size()};
    if (manifest_.eight_bit) {
      bytes_ = planes(channels_.rgb, source_, rows, columns,
                      [](T value) { return static_cast<std::uint8_t>(value); });
      feed("input", Kind::uint8, shape, bytes_);
    } else {
      floats_ = planes(channels_.rgb, source_, rows, columns,
                       [](T value) { return in_range(value); });
      feed("input", Kind::float32, shape, floats_);
    }
    if (manifest_.geometry) {
      geometry_ = geometry_of(rows, columns);
      feed("geometry", Kind::int64, {10}, geometry_);
    }
    drawn_.resize(noise_.latents.size());
    for (size_t stream = 0; stream < noise_.latents.size(); ++stream) {
      const Latent& latent = noise_.latents[stream];
      drawn_[stream] = noise_.draw(stream, rows, columns);
      feed(latent.name, Kind::float32,
           {1, latent.channels, ceil_div(rows.out_size(), latent.patch),
            ceil_div(columns.out_size(), latent.patch)},
           drawn_[stream]);
    }
    if (noise_.prior_weight) {
      inputs.push_back(
          {"prior_weight", Kind::float32, {1}, &*noise_.prior_weight, sizeof(float)});
    }
    return inputs;
  }

  const Manifest& manifest_;
  Session& session_;
  const Channels<T>& channels_;
  Size source_;
  const TilePlanner& planner_;
  Plan plan_;
  int64_t tiles_;
  Size size_;  // without the padding
  const Request& request_;
  const Noise& noise_;
  SharedFeatures* shared_;
  int64_t done_ = 0;
  OutOfRangeValues out_of_range_;
  GuardedPatches guarded_;
  vector<float> floats_;
  vector<std::uint8_t> bytes_;
  vector<int64_t> geometry_;
  vector<vector<float>> drawn_;
};

}  // namespace flowsr::detail

#endif  // FLOWSR_TILE_LOOP_HPP
