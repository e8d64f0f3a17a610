/* The interface between libflowsr and libflowsr_inductor, which alone links PyTorch.
 *
 * It is plain C: PyTorch may be built with another C++ library than libflowsr. */
#ifndef FLOWSR_INDUCTOR_MODULE_H
#define FLOWSR_INDUCTOR_MODULE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLOWSR_INDUCTOR_INTERFACE 1
#define FLOWSR_INDUCTOR_SYMBOL "flowsr_inductor_module"
#define FLOWSR_INDUCTOR_RANK 4

/* A contiguous array on the host. */
typedef struct flowsr_torch_array {
  char dtype[16]; /* such as "float32" */
  int rank;
  int64_t shape[FLOWSR_INDUCTOR_RANK];
  const void* data; /* NULL: values that nothing reads */
} flowsr_torch_array;

typedef enum flowsr_torch_status {
  FLOWSR_TORCH_DONE = 0,
  FLOWSR_TORCH_FAILED = 1,
  FLOWSR_TORCH_MEMORY = 2,
} flowsr_torch_status;

/* Functions write the reason of a failure to `message`, of `room` bytes. */
typedef struct flowsr_inductor_api {
  int interface_number;
  /* The version of the loaded PyTorch with its build, such as "2.13.0+cpu". */
  const char* (*version)(void);
  /* Whether PyTorch has a GPU of this index; `built` tells whether it is built with CUDA. */
  int (*has_gpu)(int index, int* built);
  /* Load the models of a package, by name; NULL after a failure. `device` is -1 for the CPU. */
  void* (*load)(const char* path, const char* const* models, size_t count, int device,
                int runners, char* message, size_t room);
  /* Run a model. The result is cut to `height` x `width` unless they are 0; it is valid until
   * `release` of `owner`. */
  flowsr_torch_status (*run)(void* engine, size_t model, const flowsr_torch_array* inputs,
                             size_t count, int threads, int64_t height, int64_t width,
                             flowsr_torch_array* result, void** owner, char* message,
                             size_t room);
  void (*release)(void* owner);
  void (*close)(void* engine);
} flowsr_inductor_api;

/* Returns the functions of the module, which live as long as it is loaded. */
__attribute__((visibility("default"))) const flowsr_inductor_api* flowsr_inductor_module(void);

#ifdef __cplusplus
}
#endif

#endif /* FLOWSR_INDUCTOR_MODULE_H */
