/* Upscale images with a bundle of flowsr-lp, from C and every language that calls C.
 *
 * A function that can fail returns 0 or one of the codes below; flowsr_last_error describes the
 * failure in one line. Images are contiguous rows of pixels. Many threads may use one upscaler
 * at once; close a handle when no other thread uses it.
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

/* Kinds of failure: the exit codes of the commands, here and in Python. */
enum flowsr_code {
  FLOWSR_DONE = 0,
  FLOWSR_FAILURE = 1, /* an output file, or anything else */
  FLOWSR_USAGE = 2,   /* an invalid argument, scale or size */
  FLOWSR_PARITY = 3,  /* NaN or infinity, or a missed golden pair */
  FLOWSR_BACKEND = 4, /* a backend, provider or device is missing or failed */
  FLOWSR_BUNDLE = 5,  /* a bundle or picture file is missing or damaged */
  FLOWSR_MEMORY = 6   /* out of memory */
};

typedef struct flowsr_bundle flowsr_bundle;
typedef struct flowsr_upscaler flowsr_upscaler;

/* Settings of an upscaler. Initialize with FLOWSR_SETTINGS_INIT. */
typedef struct flowsr_settings {
  size_t struct_size;      /* sizeof(flowsr_settings) */
  const char* backend;     /* "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx" or
                              "inductor"; NULL or "auto": an engine of the bundle that fits,
                              else the first of these in this build */
  const char* provider;    /* "cpu" or "cuda"; NULL: "cpu" with onnxruntime */
  const char* precision;   /* precision of the graph; NULL: "fp32" */
  int device;              /* GPU index */
  int threads;             /* CPU threads, 0: all usable cores */
  uint64_t memory_budget;  /* bytes of activations of one run, 0: the bundle's own setting, or
                              1 GiB; a larger image is split into tiles */
  int exact_halo;          /* 0: tiles agree to one 8-bit step; 1: to float rounding */
  int no_self_test;        /* 0: run the golden pair first, unless it has passed before; 1: not */
  int tf32;                /* 1: float32 graphs in TF32 on cuda, faster and off by 1e-3 */
  int exhaustive_search;   /* 1: search convolutions again at every new size on cuda */
} flowsr_settings;

#define FLOWSR_SETTINGS_INIT {sizeof(flowsr_settings), NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0}

/* One upscale request. Initialize with FLOWSR_REQUEST_INIT. A bundle of one scale needs neither
 * scale nor size; other bundles need exactly one of them. */
typedef struct flowsr_request {
  size_t struct_size;         /* sizeof(flowsr_request) */
  const char* scale_rows;     /* vertical factor as decimal text, "2.7" is 27/10 exactly */
  const char* scale_columns;  /* horizontal factor; NULL: the vertical one */
  int64_t height;             /* output size, 0 with a scale */
  int64_t width;
  int channels;               /* 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA */
  uint64_t seed;              /* random seed for the noise */
  int has_temperature;        /* 1 for a bundle without a learned prior; for one with a prior
                                 and graphs of latents, with onnxruntime, 0 or 1 */
  double temperature;         /* standard deviation of the noise */
  int has_prior_mix;          /* 1 to give prior_mix, 0: 0 with a temperature, else 1 */
  double prior_mix;           /* factor of the learned prior's latent, to which noise is added */
  const float* temperature_map; /* factors of the temperature over the whole image, rows of
                                 floats in [0, 1]; NULL: 1 */
  int64_t map_height;
  int64_t map_width;
  int unclamped;              /* float images only: keep values outside [0, 1] */
  int truncate;               /* 8-bit images only: truncate instead of rounding */
  int (*progress)(void* user, int64_t done, int64_t tiles); /* after each tile, or NULL;
                                 any result but 0 ends the call with FLOWSR_FAILURE */
  void (*warn)(void* user, const char* line); /* called when values lie far out of range, or
                                 tiles are halved for lack of memory; or NULL */
  void* user;
} flowsr_request;

#define FLOWSR_REQUEST_INIT \
  {sizeof(flowsr_request), NULL, NULL, 0, 0, 3, 0, 0, 0.0, 0, 0.0, NULL, 0, 0, 0, 0, \
   NULL, NULL, NULL}

/* One axis of a tile: half-open ranges in pixels of the whole image. */
typedef struct flowsr_piece {
  int64_t lr_begin, lr_end;   /* input pixels of the tile */
  int64_t out_begin, out_end; /* output pixels of the window */
  int64_t begin, end;         /* output pixels without the halo */
  int64_t fade_in, fade_out;  /* of these, the pixels shared with the previous and next piece */
} flowsr_piece;

/* Return the message of the calling thread's last failure, "" without one. */
FLOWSR_API const char* flowsr_last_error(void);

/* Return the version of this library, such as "0.1.0". */
FLOWSR_API const char* flowsr_version(void);

/* Return the backends of this build, separated by spaces. */
FLOWSR_API const char* flowsr_backends(void);

/* Read and check the manifest of a bundle. */
FLOWSR_API int flowsr_bundle_open(const char* path, flowsr_bundle** bundle);

/* Check every file of a bundle against the manifest. */
FLOWSR_API int flowsr_bundle_check(const flowsr_bundle* bundle);

/* Plan the tiles of an image, without loading a model.
 *
 * rows and columns are arrays of row_capacity and column_capacity pieces; only pieces that fit
 * are stored, while the counts are the full numbers. Results may be NULL. */
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

/* Return "" if the golden pair was met, else the reason why it was not run. */
FLOWSR_API const char* flowsr_untested(const flowsr_upscaler* upscaler);

/* Return backend, provider, device and precision that run, as in "inductor cpu, fp32". */
FLOWSR_API const char* flowsr_choice(const flowsr_upscaler* upscaler);

/* Return the output size of an image. */
FLOWSR_API int flowsr_target(const flowsr_upscaler* upscaler, int64_t height, int64_t width,
                             const flowsr_request* request, int64_t* target_height,
                             int64_t* target_width);

/* Upscale an 8-bit image; result holds target_height * target_width * channels. */
FLOWSR_API int flowsr_upscale_u8(const flowsr_upscaler* upscaler, const uint8_t* image,
                                 int64_t height, int64_t width, const flowsr_request* request,
                                 uint8_t* result);

/* Upscale a 16-bit image. */
FLOWSR_API int flowsr_upscale_u16(const flowsr_upscaler* upscaler, const uint16_t* image,
                                  int64_t height, int64_t width,
                                  const flowsr_request* request, uint16_t* result);

/* Upscale an image of floats in [0, 1]. */
FLOWSR_API int flowsr_upscale_f32(const flowsr_upscaler* upscaler, const float* image,
                                  int64_t height, int64_t width,
                                  const flowsr_request* request, float* result);

FLOWSR_API void flowsr_close(flowsr_upscaler* upscaler);

/* Return the output pixels of some input pixels: floor(pixels * scale + 1/2). */
FLOWSR_API int flowsr_output_size(int64_t pixels, const char* scale, int64_t* result);

/* Draw the noise for a window of latent cells; result is (channels, rows, columns) floats. */
FLOWSR_API int flowsr_noise(uint64_t seed, uint32_t stream, int64_t top, int64_t left,
                            int64_t rows, int64_t columns, int64_t channels,
                            double temperature, float* result);

#ifdef __cplusplus
}
#endif

#endif /* FLOWSR_FLOWSR_H */
