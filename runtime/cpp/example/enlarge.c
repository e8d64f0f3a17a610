/* Upscale a gradient by 2.7 with a bundle, in C, and print its size and mean. */

#include <flowsr/flowsr.h>

#include <stdio.h>
#include <stdlib.h>

static int enlarge(const flowsr_upscaler* upscaler) {
  uint8_t image[12 * 16 * 3];
  flowsr_request request = FLOWSR_REQUEST_INIT;
  int64_t height = 0, width = 0;
  size_t i, count;
  uint8_t* result;
  double total = 0;
  int code;

  for (i = 0; i < sizeof image; ++i) image[i] = (uint8_t)(i / 3);
  request.scale_rows = "2.7";
  code = flowsr_target(upscaler, 12, 16, &request, &height, &width);
  if (code != FLOWSR_DONE) return code;
  count = (size_t)(height * width * 3);
  result = malloc(count);
  if (result == NULL) return FLOWSR_MEMORY;
  code = flowsr_upscale_u8(upscaler, image, 12, 16, &request, result);
  if (code == FLOWSR_DONE) {
    for (i = 0; i < count; ++i) total += result[i];
    printf("%ldx%ld %.3f\n", (long)height, (long)width, total / (double)count);
  }
  free(result);
  return code;
}

int main(int count, char** words) {
  flowsr_upscaler* upscaler = NULL;
  int code;

  if (count != 2) {
    fprintf(stderr, "usage: %s BUNDLE\n", words[0]);
    return FLOWSR_USAGE;
  }
  code = flowsr_open(words[1], NULL, &upscaler);
  if (code == FLOWSR_DONE) code = enlarge(upscaler);
  flowsr_close(upscaler);
  if (code != FLOWSR_DONE) fprintf(stderr, "%s\n", flowsr_last_error());
  return code;
}
