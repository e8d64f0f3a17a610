// The C interface.

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "flowsr/flowsr.h"
#include "flowsr/flowsr.hpp"

struct flowsr_bundle {
  flowsr::Bundle bundle;
};

struct flowsr_upscaler {
  flowsr::Upscaler upscaler;
};

namespace {

std::string& last_error() {
  thread_local std::string message;
  return message;
}

/// Runs a function and returns the code of its exception; keeps the message for the thread.
template <class Body>
int guarded(Body body) {
  try {
    body();
    return FLOWSR_DONE;
  } catch (const flowsr::Error& error) {
    last_error() = error.what();
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    last_error() = "the memory does not suffice";
    return FLOWSR_MEMORY;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return FLOWSR_FAILURE;
  } catch (...) {  // from a callback; it must not cross the C interface
    last_error() = "a callback threw an exception of another kind";
    return FLOWSR_FAILURE;
  }
}

[[noreturn]] void refuse(const std::string& message) {
  throw flowsr::Error(flowsr::Code::usage, message);
}

template <class T>
T* given(T* pointer, const char* name) {
  if (pointer == nullptr) refuse(std::string(name) + " must not be NULL");
  return pointer;
}

flowsr::Settings settings_of(const flowsr_settings* settings) {
  flowsr::Settings result;
  if (settings == nullptr) return result;
  if (settings->struct_size != sizeof(flowsr_settings)) {
    refuse("settings must begin with FLOWSR_SETTINGS_INIT of this version");
  }
  if (settings->backend != nullptr) result.backend = settings->backend;
  if (settings->provider != nullptr) result.provider = settings->provider;
  if (settings->precision != nullptr) result.precision = settings->precision;
  result.device = settings->device;
  result.threads = settings->threads;
  if (settings->memory_budget > static_cast<std::uint64_t>(INT64_MAX)) {
    refuse("memory_budget must be below 2^63 bytes");
  }
  result.memory_budget = static_cast<std::int64_t>(settings->memory_budget);
  if (settings->exact_halo != 0) result.halo = flowsr::HaloKind::exact;
  result.self_test = settings->no_self_test == 0;
  result.tf32 = settings->tf32 != 0;
  if (settings->exhaustive_search != 0) result.convolution_search = "exhaustive";
  return result;
}

const flowsr_request& checked(const flowsr_request* request) {
  if (given(request, "request")->struct_size != sizeof(flowsr_request)) {
    refuse("request must begin with FLOWSR_REQUEST_INIT of this version");
  }
  return *request;
}

flowsr::Target target_of(const flowsr_request& request) {
  const bool sized = request.height != 0 || request.width != 0;
  if (request.scale_rows == nullptr) {
    if (request.scale_columns != nullptr) refuse("scale_columns needs scale_rows");
    if (!sized) return flowsr::Target();
    return flowsr::Target(flowsr::Size{request.height, request.width});
  }
  if (sized) refuse("give exactly one of scale and size");
  const bool alike = request.scale_columns == nullptr;
  return flowsr::Target(flowsr::Scale(request.scale_rows),
                        flowsr::Scale(alike ? request.scale_rows : request.scale_columns));
}

flowsr::Request request_of(const flowsr_request& request) {
  flowsr::Request result;
  result.channels = request.channels;
  result.seed = request.seed;
  if (request.has_temperature != 0) result.temperature = request.temperature;
  if (request.has_prior_mix != 0) result.prior_mix = request.prior_mix;
  result.temperature_map = request.temperature_map;
  result.temperature_map_size = {request.map_height, request.map_width};
  result.clamp = request.unclamped == 0;
  result.truncate = request.truncate != 0;
  void* user = request.user;
  if (const auto progress = request.progress) {
    result.progress = [progress, user](std::int64_t done, std::int64_t tiles) {
      if (progress(user, done, tiles) == 0) return;
      throw flowsr::Error(flowsr::Code::failure, "cancelled after " + std::to_string(done) +
                                                     " of " + std::to_string(tiles) + " tiles");
    };
  }
  if (const auto warn = request.warn) {
    result.warn = [warn, user](const std::string& line) { warn(user, line.c_str()); };
  }
  return result;
}

void copy_pieces(const std::vector<flowsr::Piece>& pieces, flowsr_piece* result,
                 std::size_t capacity, std::size_t* count) {
  if (count != nullptr) *count = pieces.size();
  if (result == nullptr) return;
  for (std::size_t i = 0; i < std::min(capacity, pieces.size()); ++i) {
    const flowsr::Piece& piece = pieces[i];
    const flowsr::Extent& extent = piece.extent;
    result[i] = {extent.lr_begin, extent.lr_end, extent.out_begin, extent.out_end,
                 piece.begin,     piece.end,     piece.fade_in,    piece.fade_out};
  }
}

template <class T>
int upscale(const flowsr_upscaler* upscaler, const T* image, std::int64_t height,
            std::int64_t width, const flowsr_request* request, T* result) {
  return guarded([&] {
    const flowsr_request& asked = checked(request);
    given(upscaler, "upscaler")
        ->upscaler.upscale(given(image, "image"), flowsr::Size{height, width}, target_of(asked),
                           given(result, "result"), request_of(asked));
  });
}

}  // namespace

const char* flowsr_last_error(void) { return last_error().c_str(); }

const char* flowsr_version(void) { return FLOWSR_VERSION; }

const char* flowsr_backends(void) {
  thread_local std::string names;
  names.clear();
  for (const std::string& name : flowsr::backends()) names += (names.empty() ? "" : " ") + name;
  return names.c_str();
}

int flowsr_bundle_open(const char* path, flowsr_bundle** bundle) {
  return guarded([&] {
    *given(bundle, "bundle") = nullptr;
    *bundle = new flowsr_bundle{flowsr::Bundle::open(given(path, "path"))};
  });
}

int flowsr_bundle_check(const flowsr_bundle* bundle) {
  return guarded([&] { given(bundle, "bundle")->bundle.check_files(); });
}

int flowsr_bundle_plan(const flowsr_bundle* bundle, int64_t height, int64_t width,
                       const flowsr_request* request, const flowsr_settings* settings,
                       flowsr_piece* rows, size_t row_capacity, size_t* row_count,
                       flowsr_piece* columns, size_t column_capacity, size_t* column_count,
                       uint64_t* run_bytes) {
  return guarded([&] {
    const flowsr::Plan plan = given(bundle, "bundle")
                                  ->bundle.plan(flowsr::Size{height, width},
                                                target_of(checked(request)),
                                                settings_of(settings));
    copy_pieces(plan.rows, rows, row_capacity, row_count);
    copy_pieces(plan.columns, columns, column_capacity, column_count);
    if (run_bytes != nullptr) *run_bytes = static_cast<std::uint64_t>(plan.run_bytes);
  });
}

void flowsr_bundle_close(flowsr_bundle* bundle) { delete bundle; }

int flowsr_open(const char* bundle, const flowsr_settings* settings,
                flowsr_upscaler** upscaler) {
  return guarded([&] {
    *given(upscaler, "upscaler") = nullptr;
    const flowsr::Settings wanted = settings_of(settings);
    *upscaler = new flowsr_upscaler{flowsr::Upscaler::open(given(bundle, "bundle"), wanted)};
  });
}

const char* flowsr_untested(const flowsr_upscaler* upscaler) {
  return upscaler == nullptr ? "" : upscaler->upscaler.untested().c_str();
}

const char* flowsr_choice(const flowsr_upscaler* upscaler) {
  return upscaler == nullptr ? "" : upscaler->upscaler.choice().c_str();
}

int flowsr_target(const flowsr_upscaler* upscaler, int64_t height, int64_t width,
                  const flowsr_request* request, int64_t* target_height,
                  int64_t* target_width) {
  return guarded([&] {
    const flowsr::Size size =
        given(upscaler, "upscaler")
            ->upscaler.target(flowsr::Size{height, width}, target_of(checked(request)));
    *given(target_height, "target_height") = size.height;
    *given(target_width, "target_width") = size.width;
  });
}

int flowsr_upscale_u8(const flowsr_upscaler* upscaler, const uint8_t* image, int64_t height,
                      int64_t width, const flowsr_request* request, uint8_t* result) {
  return upscale(upscaler, image, height, width, request, result);
}

int flowsr_upscale_u16(const flowsr_upscaler* upscaler, const uint16_t* image, int64_t height,
                       int64_t width, const flowsr_request* request, uint16_t* result) {
  return upscale(upscaler, image, height, width, request, result);
}

int flowsr_upscale_f32(const flowsr_upscaler* upscaler, const float* image, int64_t height,
                       int64_t width, const flowsr_request* request, float* result) {
  return upscale(upscaler, image, height, width, request, result);
}

void flowsr_close(flowsr_upscaler* upscaler) { delete upscaler; }

int flowsr_output_size(int64_t pixels, const char* scale, int64_t* result) {
  return guarded([&] {
    *given(result, "result") = flowsr::Scale(given(scale, "scale")).output_size(pixels);
  });
}

int flowsr_noise(uint64_t seed, uint32_t stream, int64_t top, int64_t left, int64_t rows,
                 int64_t columns, int64_t channels, double temperature, float* result) {
  return guarded([&] {
    flowsr::draw_noise(seed, stream, top, left, rows, columns, channels, temperature,
                       given(result, "result"));
  });
}
