/* What a WebAssembly guest in C or C++ may ask of its cluster beyond WASI: a core module's imports from "tepui_guest_v1".
 *
 * For clang with the target wasm32-wasi (wasm32-wasip1). There is no library to link: an agent provides every function that
 * is used. A module that uses none of them runs anywhere; one that does runs on agents only.
 *
 * Text is UTF-8 and given as a pointer and a length in bytes; it needs no 0 at its end, and gets none. A function that gives
 * bytes back writes them into `buffer` if they fit into `capacity`, and their number to `*size` in any case. If they do not
 * fit it returns TEPUI_TOO_SMALL, nothing is written to `buffer` and nothing is lost: call it again with a larger one.
 * A pointer outside of the memory ends the task, as any such access does.
 *
 * Several byte strings come as a list: each is its length in 4 bytes, the lowest first, and then itself. tepui_next reads one.
 */
#ifndef TEPUI_H
#define TEPUI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TEPUI_IMPORT(name) __attribute__((import_module("tepui_guest_v1"), import_name(name)))

/* What a function returns. */
typedef enum tepui_status {
  TEPUI_OK = 0,
  /* For a reason this version has no name for. */
  TEPUI_UNKNOWN = 1,
  /* What was asked is not allowed: too long, too many, out of range, no UTF-8. */
  TEPUI_INVALID = 2,
  /* The task belongs to no job (it has no label tepui.job), so it has no store. */
  TEPUI_NO_JOB = 3,
  /* The key has another version than the one named. */
  TEPUI_CONFLICT = 4,
  /* There is no room: in the store of the job or of the role, or for another message on its way. */
  TEPUI_FULL = 5,
  /* No agent or no master answers at present. Of a put or a delete it is not known whether it was done. */
  TEPUI_UNAVAILABLE = 6,
  /* There is none: no such field, label or key; no message came in time. No failure. */
  TEPUI_NONE = 7,
  /* The buffer is too small; *size says what is needed. */
  TEPUI_TOO_SMALL = 8
} tepui_status;

/* The sentence that explains the last failure (TEPUI_UNKNOWN to TEPUI_UNAVAILABLE) of this instance. TEPUI_NONE: there was none. */
TEPUI_IMPORT("error_message")
int32_t tepui_error_message(char *buffer, size_t capacity, size_t *size);

/* ---- The task this guest runs as ---- */

typedef enum tepui_field {
  TEPUI_TASK_ID = 0,
  TEPUI_TASK_NAME = 1,
  TEPUI_FRAMEWORK_ID = 2,
  /* The role whose share it runs in. */
  TEPUI_ROLE = 3,
  TEPUI_AGENT_ID = 4,
  /* The job it belongs to (label tepui.job). TEPUI_NONE: to none. */
  TEPUI_JOB = 5
} tepui_field;

TEPUI_IMPORT("task_field")
int32_t tepui_task_field(int32_t field, char *buffer, size_t capacity, size_t *size);

/* Which attempt at its work it is, from 1 on (label tepui.attempt). */
TEPUI_IMPORT("task_attempt")
uint32_t tepui_task_attempt(void);

/* The value of a label, the first one with that key. */
TEPUI_IMPORT("task_label")
int32_t tepui_task_label(const char *key, size_t key_size, char *buffer, size_t capacity, size_t *size);

/* All labels, as a list: a key, its value, a key, its value, ... */
TEPUI_IMPORT("task_labels")
int32_t tepui_task_labels(uint8_t *buffer, size_t capacity, size_t *size);

/* ---- Messages to and from the scheduler of its framework; best effort both ways ---- */

/* Hands a message of up to 65,536 bytes over for sending. TEPUI_FULL: too many wait to leave. */
TEPUI_IMPORT("message_send")
int32_t tepui_message_send(const void *data, size_t size);

/* The next message. Waits so many milliseconds for one, 0 not at all. TEPUI_NONE: none came in that time, or the task is
 * being ended. TEPUI_TOO_SMALL leaves it where it is. */
TEPUI_IMPORT("message_receive")
int32_t tepui_message_receive(uint32_t timeout_ms, void *buffer, size_t capacity, size_t *size);

/* How many messages were lost here so far because too many waited, for sending or for being received. */
TEPUI_IMPORT("message_dropped")
uint64_t tepui_message_dropped(void);

/* ---- The store of its job, which outlives the task ---- */

/* The value of a key, and its version (unless `version` is NULL), which is above 0. TEPUI_NONE: it does not exist. */
TEPUI_IMPORT("store_get")
int32_t tepui_store_get(const char *key, size_t key_size, void *buffer, size_t capacity, size_t *size, uint64_t *version);

/* Sets a value. With `if_version` only if the key has that version, with 0 in it only if it does not exist; else
 * TEPUI_CONFLICT. `*version` (unless NULL) becomes the new version, of a conflict the one the key has. It is on the master's
 * disk when this returns. */
TEPUI_IMPORT("store_put")
int32_t tepui_store_put(const char *key, size_t key_size, const void *value, size_t value_size, const uint64_t *if_version,
                        uint64_t *version);

/* Removes a key. `*version` (unless NULL) becomes the version it had; 0 if it did not exist. */
TEPUI_IMPORT("store_delete")
int32_t tepui_store_delete(const char *key, size_t key_size, const uint64_t *if_version, uint64_t *version);

/* The keys that begin with the prefix, in order, as a list. */
TEPUI_IMPORT("store_keys")
int32_t tepui_store_keys(const char *prefix, size_t prefix_size, uint8_t *buffer, size_t capacity, size_t *size);

/* ---- How it is doing; may be called as often as one likes, what is told is the latest, about once a second ---- */

/* How far it is, between 0 and 1 (or NAN: unknown), and what it is at (a size of 0: nothing is said). */
TEPUI_IMPORT("report_progress")
int32_t tepui_report_progress(double fraction, const char *message, size_t message_size);

/* Whether it works as it should, with a sentence. If the task has a health check, that alone says how it is. */
TEPUI_IMPORT("report_health")
int32_t tepui_report_health(bool healthy, const char *message, size_t message_size);

/* ---- Lines of log.jsonl in the sandbox ---- */

typedef enum tepui_level {
  TEPUI_TRACE = 0,
  TEPUI_DEBUG = 1,
  TEPUI_INFO = 2,
  TEPUI_WARN = 3,
  TEPUI_ERROR = 4
} tepui_level;

typedef struct tepui_pair {
  const char *key;
  size_t key_size;
  const char *value;
  size_t value_size;
} tepui_pair;

TEPUI_IMPORT("log_write")
int32_t tepui_log_write(int32_t level, const char *message, size_t message_size, const tepui_pair *fields, size_t field_count);

/* ---- Where other tasks answer ---- */

/* The tasks that run and offer a service of that name (DiscoveryInfo.name), as a list of seven items for each: host, port
 * (in decimal), name of the port, protocol, framework id, task id, and "1", "0" or nothing for healthy, unhealthy or not
 * known. What is not known is empty. */
TEPUI_IMPORT("service_find")
int32_t tepui_service_find(const char *name, size_t name_size, uint8_t *buffer, size_t capacity, size_t *size);

/* ---- Reading lists ---- */

/* Reads the item at `*cursor`, moves behind it and returns true; false at the end. The item lies in the buffer. */
static inline bool tepui_next(const uint8_t **cursor, const uint8_t *end, const char **item, size_t *item_size) {
  if ((size_t)(end - *cursor) < 4) {
    return false;
  }
  const uint8_t *at = *cursor;
  const size_t size = (size_t)at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
  if ((size_t)(end - at) - 4 < size) {
    return false;
  }
  *item = (const char *)at + 4;
  *item_size = size;
  *cursor = at + 4 + size;
  return true;
}

#ifdef __cplusplus
}
#endif

#endif /* TEPUI_H */
