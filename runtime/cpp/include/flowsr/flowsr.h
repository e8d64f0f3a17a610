/* Enlarge pictures with a bundle of flowsr-lp, from C and every language that calls C.
 *
 * Every function that can fail returns 0, or one of the codes below; flowsr_last_error says in
 * one line what was wrong. Pictures are rows of RGB pixels without gaps. One upscaler may be
 * used by many threads at once; a handle is closed when no other thread uses it.
 */
#ifndef FLOWSR_FLOWSR_H
#define FLOWSR_FLOWSR_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(FLOWSR_STATIC)
#define FLOWSR_API
#elif defined(FLOWSR_BUILD)
#define FLOWSR_API __declspec(dllexport)
#else
#define FLOWSR_API __declspec(dllimport)
#endif
#else
#define FLOWSR_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong; the commands end with the same numbers, as those of Python do. */
enum flowsr_code {
  FLOWSR_DONE = 0,
  FLOWSR_FAILURE = 1, /* a picture file, or anything else */
  FLOWSR_USAGE = 2,   /* an argument, a scale or a size that cannot be */
  FLOWSR_PARITY = 3,  /* NaN or infinity, or another answer than is due */
  FLOWSR_BACKEND = 4, /* a backend, provider or device is missing or failed */
  FLOWSR_BUNDLE = 5,  /* a bundle is damaged, newer, or lacks what is asked of it */
  FLOWSR_MEMORY = 6   /* the memory does not suffice */
};

typedef struct flowsr_bundle flowsr_bundle;
typedef struct flowsr_upscaler flowsr_upscaler;

/* How a bundle is run. Begin with FLOWSR_SETTINGS_INIT. */
typedef struct flowsr_settings {
  size_t struct_size;      /* sizeof(flowsr_settings) */
  const char* backend;     /* "onnxruntime", "openvino", "tensorrt" or "tensorrt_rtx";
                              NULL: the first of these that was built in */
  const char* provider;    /* of onnxruntime: "cpu" or "cuda"; NULL: "cpu" */
  const char* precision;   /* which of the bundle's graphs; NULL: "fp32" */
  int device;              /* index of the GPU */
  int threads;             /* CPU threads, 0: every usable core */
  uint64_t memory_budget;  /* bytes of activations of one run, 0: what the bundle states, or
                              1 GiB; a larger picture is cut into tiles */
  int exact_halo;          /* 0: tiles agree to one eight-bit step; 1: to float rounding */
} flowsr_settings;

#define FLOWSR_SETTINGS_INIT {sizeof(flowsr_settings), NULL, NULL, NULL, 0, 0, 0, 0}

/* What is asked for. Begin with FLOWSR_REQUEST_INIT. A bundle of one scale needs neither scale
 * nor size; any other needs exactly one of them. */
typedef struct flowsr_request {
  size_t struct_size;         /* sizeof(flowsr_request) */
  const char* scale_rows;     /* vertical factor as decimal text, "2.7" is 27/10 exactly */
  const char* scale_columns;  /* horizontal factor; NULL: the vertical one */
  int64_t height;             /* output size, 0 where a scale is given */
  int64_t width;
  int channels;               /* 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA */
  uint64_t seed;              /* of the noise */
  int has_temperature;        /* 1 for a bundle without a learned prior, which needs it */
  double temperature;         /* standard deviation of the latents */
  int unclamped;              /* float pictures alone: leave values outside [0, 1] */
  int truncate;               /* eight-bit pictures alone: cut off in place of rounding */
  int (*progress)(void* user, int64_t done, int64_t tiles); /* after each tile, or NULL;
                                 anything but 0 ends the call with FLOWSR_FAILURE */
  void (*warn)(void* user, const char* line); /* values far out of range, or memory that ran
                                 out so that tiles were halved; or NULL */
  void* user;
} flowsr_request;

#define FLOWSR_REQUEST_INIT \
  {sizeof(flowsr_request), NULL, NULL, 0, 0, 3, 0, 0, 0.0, 0, 0, NULL, NULL, NULL}

/* One axis of a tile: half-open ranges in pixels of the whole picture. */
typedef struct flowsr_piece {
  int64_t lr_begin, lr_end;   /* input pixels that are read */
  int64_t out_begin, out_end; /* output pixels that are computed */
  int64_t begin, end;         /* output pixels that are kept */
  int64_t fade_in, fade_out;  /* of these, the ones shared with the pieces before and after */
} flowsr_piece;

/* The message of the calling thread's last failure, "" if there was none. */
FLOWSR_API const char* flowsr_last_error(void);

/* Version of this library, such as "0.1.0". */
FLOWSR_API const char* flowsr_version(void);

/* The backends that were built in, divided by spaces. */
FLOWSR_API const char* flowsr_backends(void);

/* Read and check the manifest of a bundle. */
FLOWSR_API int flowsr_bundle_open(const char* path, flowsr_bundle** bundle);

/* Check every file of a bundle against the manifest. */
FLOWSR_API int flowsr_bundle_check(const flowsr_bundle* bundle);

/* Say how a picture would be cut, without a model.
 *
 * rows and columns are arrays of row_capacity and column_capacity pieces; the numbers of pieces
 * are stored whether they fit or not, and only as many pieces as fit. Results may be NULL. */
FLOWSR_API int flowsr_bundle_plan(const flowsr_bundle* bundle, int64_t height, int64_t width,
                                  const flowsr_request* request,
                                  const flowsr_settings* settings, flowsr_piece* rows,
                                  size_t row_capacity, size_t* row_count,
                                  flowsr_piece* columns, size_t column_capacity,
                                  size_t* column_count, uint64_t* run_bytes);

FLOWSR_API void flowsr_bundle_close(flowsr_bundle* bundle);

/* Load the model of a bundle. settings may be NULL. */
FLOWSR_API int flowsr_open(const char* bundle, const flowsr_settings* settings,
                           flowsr_upscaler** upscaler);

/* Say the size that an enlarged picture gets. */
FLOWSR_API int flowsr_target(const flowsr_upscaler* upscaler, int64_t height, int64_t width,
                             const flowsr_request* request, int64_t* target_height,
                             int64_t* target_width);

/* Enlarge a picture of eight bits; result holds target_height * target_width * channels. */
FLOWSR_API int flowsr_upscale_u8(const flowsr_upscaler* upscaler, const uint8_t* image,
                                 int64_t height, int64_t width, const flowsr_request* request,
                                 uint8_t* result);

/* The same of 16 bits. */
FLOWSR_API int flowsr_upscale_u16(const flowsr_upscaler* upscaler, const uint16_t* image,
                                  int64_t height, int64_t width,
                                  const flowsr_request* request, uint16_t* result);

/* The same of floats in [0, 1]. */
FLOWSR_API int flowsr_upscale_f32(const flowsr_upscaler* upscaler, const float* image,
                                  int64_t height, int64_t width,
                                  const flowsr_request* request, float* result);

FLOWSR_API void flowsr_close(flowsr_upscaler* upscaler);

/* Output pixels that a factor makes of some input pixels: floor(pixels * scale + 1/2). */
FLOWSR_API int flowsr_output_size(int64_t pixels, const char* scale, int64_t* result);

/* Draw the noise of a window of latent cells: result is (channels, rows, columns) floats. */
FLOWSR_API int flowsr_noise(uint64_t seed, uint32_t stream, int64_t top, int64_t left,
                            int64_t rows, int64_t columns, int64_t channels,
                            double temperature, float* result);

#ifdef __cplusplus
}
#endif

#endif /* FLOWSR_FLOWSR_H */
