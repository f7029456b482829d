/* A stroll through tepui.h: says who it is, counts its visits in the store of its job, logs, reports, and sends back what
 * its scheduler says until that is "bye".
 *
 *   clang --target=wasm32-wasi -O2 tour.c -o tour.wasm        (with a sysroot of WASI, as wasi-libc or wasi-sdk has it)
 *   zig cc -target wasm32-wasi -O2 tour.c -o tour.wasm
 */
#include "tepui.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(literal) (literal), (sizeof(literal) - 1)

/* Says what went wrong, with the cluster's sentence. */
static int32_t complain(const char *what, int32_t status) {
  char sentence[512];
  size_t size = 0;
  if (tepui_error_message(sentence, sizeof sentence, &size) != TEPUI_OK) {
    size = 0;
  }
  fprintf(stderr, "%s: status %d: %.*s\n", what, (int)status, (int)size, sentence);
  return status;
}

static void who(void) {
  char text[256];
  size_t size = 0;
  if (tepui_task_field(TEPUI_TASK_ID, text, sizeof text, &size) == TEPUI_OK) {
    printf("task %.*s, attempt %u\n", (int)size, text, tepui_task_attempt());
  }
  uint8_t labels[4096];
  if (tepui_task_labels(labels, sizeof labels, &size) == TEPUI_OK) {
    const uint8_t *cursor = labels;
    const char *key, *value;
    size_t key_size, value_size;
    while (tepui_next(&cursor, labels + size, &key, &key_size) && tepui_next(&cursor, labels + size, &value, &value_size)) {
      printf("label %.*s = %.*s\n", (int)key_size, key, (int)value_size, value);
    }
  }
}

/* Counts, whoever else counts at the same time. */
static int32_t count(void) {
  for (;;) {
    char value[32] = {0};
    size_t size = 0;
    uint64_t version = 0;
    int32_t status = tepui_store_get(TEXT("visits/c"), value, sizeof value - 1, &size, &version);
    if (status != TEPUI_OK && status != TEPUI_NONE) {
      return complain("store_get", status);
    }
    const long visits = status == TEPUI_OK ? strtol(value, NULL, 10) + 1 : 1;
    const int length = snprintf(value, sizeof value, "%ld", visits);
    /* The version is 0 if the key does not exist, which is what is asked for then. */
    const uint64_t seen = version;
    status = tepui_store_put(TEXT("visits/c"), value, (size_t)length, &seen, &version);
    if (status == TEPUI_CONFLICT) {
      continue;
    }
    if (status != TEPUI_OK) {
      return complain("store_put", status);
    }
    printf("visit %ld\n", visits);
    return TEPUI_OK;
  }
}

static int32_t echo(void) {
  static char message[65536 + 5];
  memcpy(message, "echo ", 5);
  int32_t status = tepui_message_send(TEXT("ready"));
  while (status == TEPUI_OK) {
    size_t size = 0;
    status = tepui_message_receive(60000, message + 5, sizeof message - 5, &size);
    if (status == TEPUI_OK) {
      status = tepui_message_send(message, size + 5);
      if (size == 3 && memcmp(message + 5, "bye", 3) == 0) {
        return status;
      }
    }
  }
  return status == TEPUI_NONE ? TEPUI_OK : complain("echo", status);
}

int main(void) {
  who();
  const tepui_pair fields[] = {{TEXT("language"), TEXT("c")}};
  tepui_log_write(TEPUI_INFO, TEXT("the tour begins"), fields, 1);
  tepui_report_progress(NAN, TEXT("counting"));
  const int32_t counted = count();
  tepui_report_health(counted == TEPUI_OK, TEXT("it can count, or it cannot"));
  tepui_report_progress(0.5, TEXT("listening"));
  const int32_t echoed = echo();
  tepui_report_progress(1.0, TEXT("done"));
  return counted == TEPUI_OK && echoed == TEPUI_OK ? 0 : 1;
}
