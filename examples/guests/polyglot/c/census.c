/* census DATA LIMIT: see the README of this directory's parent for what is counted.
 *
 * int64_t and uint64_t throughout: in wasm32 a long, a size_t and a pointer have 32 bits. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { USAGE = 2, LIMIT_MAX = 5000000, TOP_MAX = 100, TOP = 5 };

/* A word and how often it was seen. */
struct word {
  char *text;
  uint64_t count;
};

/* Words by open addressing; capacity is a power of two. */
struct words {
  struct word *slots;
  size_t capacity, used;
};

struct census {
  uint64_t files, bytes, lines, words;
  struct words distinct;
};

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (memory == NULL) {
    fputs("census: out of memory\n", stderr);
    exit(EXIT_FAILURE);
  }
  return memory;
}

static size_t hash(const char *text, size_t length) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
  return hash;
}

/* The slot that has the word, or that is free for it. */
static struct word *find(const struct words *words, const char *text, size_t length) {
  size_t mask = words->capacity - 1;
  for (size_t at = hash(text, length) & mask;; at = (at + 1) & mask) {
    struct word *slot = &words->slots[at];
    if (slot->text == NULL) return slot;
    if (strncmp(slot->text, text, length) == 0 && slot->text[length] == '\0') return slot;
  }
}

static void grow(struct words *words) {
  struct words larger = {.capacity = words->capacity == 0 ? 1024 : 2 * words->capacity, .used = words->used};
  larger.slots = allocate(larger.capacity, sizeof *larger.slots);
  for (size_t i = 0; i < words->capacity; i++) {
    struct word *word = &words->slots[i];
    if (word->text != NULL) *find(&larger, word->text, strlen(word->text)) = *word;
  }
  free(words->slots);
  *words = larger;
}

static void count_word(struct census *census, const char *text, size_t length) {
  struct words *words = &census->distinct;
  if (4 * (words->used + 1) > 3 * words->capacity) grow(words);
  struct word *slot = find(words, text, length);
  if (slot->text == NULL) {
    slot->text = allocate(length + 1, 1);
    memcpy(slot->text, text, length);
    words->used++;
  }
  slot->count++;
  census->words++;
}

/* Counts a file. False, with errno set, if it cannot be read. */
static bool count_file(struct census *census, const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return false;
  size_t length = 0, capacity = 64;
  char *word = allocate(capacity, 1);
  int byte;
  while ((byte = getc(file)) != EOF) {
    census->bytes++;
    if (byte == '\n') census->lines++;
    if (byte < 0x80 && isalpha(byte)) {
      if (length == capacity) {
        char *longer = allocate(2 * capacity, 1);
        memcpy(longer, word, length);
        free(word);
        word = longer;
        capacity *= 2;
      }
      word[length++] = (char)tolower(byte);
    } else if (length > 0) {
      count_word(census, word, length);
      length = 0;
    }
  }
  if (length > 0) count_word(census, word, length);
  bool whole = !ferror(file);
  free(word);
  fclose(file);
  census->files++;
  return whole;
}

/* Counts a file, or the files directly in a directory. */
static bool count_data(struct census *census, const char *data) {
  DIR *directory = opendir(data);
  if (directory == NULL) return errno == ENOTDIR && count_file(census, data);
  bool whole = true;
  struct dirent *entry;
  while (whole && (entry = readdir(directory)) != NULL) {
    size_t size = strlen(data) + strlen(entry->d_name) + 2;
    char *path = allocate(size, 1);
    snprintf(path, size, "%s/%s", data, entry->d_name);
    struct stat found;
    if (stat(path, &found) == 0 && S_ISREG(found.st_mode)) whole = count_file(census, path);
    free(path);
  }
  closedir(directory);
  return whole;
}

/* Most frequent first, then by the alphabet; free slots last. */
static int compare(const void *left, const void *right) {
  const struct word *one = left, *other = right;
  if (one->count != other->count) return one->count < other->count ? 1 : -1;
  if (one->text == NULL || other->text == NULL) return 0;
  return strcmp(one->text, other->text);
}

static void print_primes(FILE *to, int64_t limit) {
  bool *composite = allocate((size_t)limit, sizeof *composite);
  uint64_t primes = 0, squares = 0;
  for (int64_t number = 2; number < limit; number++) {
    if (composite[number]) continue;
    primes++;
    squares += (uint64_t)(number * number);
    for (int64_t multiple = number * number; multiple < limit; multiple += number) composite[multiple] = true;
  }
  free(composite);
  fprintf(to, "primes %" PRIu64 "\nsquares %" PRIu64 "\n", primes, squares);
}

static void print_report(FILE *to, struct census *census, int64_t top, int64_t limit) {
  struct words *words = &census->distinct;
  fprintf(to, "files %" PRIu64 "\nbytes %" PRIu64 "\nlines %" PRIu64 "\n", census->files, census->bytes, census->lines);
  fprintf(to, "words %" PRIu64 "\ndistinct %zu\n", census->words, words->used);
  for (int64_t i = 0; i < top && i < (int64_t)words->used; i++)
    fprintf(to, "top %s %" PRIu64 "\n", words->slots[i].text, words->slots[i].count);
  print_primes(to, limit);
}

/* A whole number between two bounds; -1 if it is none. */
static int64_t number(const char *text, int64_t least, int64_t most) {
  char *end;
  errno = 0;
  int64_t value = strtoll(text, &end, 10);
  bool whole = isdigit((unsigned char)text[0]) && *end == '\0' && errno == 0;
  return whole && least <= value && value <= most ? value : -1;
}

int main(int argc, char **argv) {
  const char *wanted = getenv("CENSUS_TOP");
  int64_t top = wanted == NULL ? TOP : number(wanted, 0, TOP_MAX);
  int64_t limit = argc == 3 ? number(argv[2], 2, LIMIT_MAX) : -1;
  if (limit < 0 || top < 0) {
    fprintf(stderr, "usage: census DATA LIMIT (2 to %d; CENSUS_TOP: 0 to %d)\n", LIMIT_MAX, TOP_MAX);
    return USAGE;
  }
  struct census census = {0};
  if (!count_data(&census, argv[1])) {
    fprintf(stderr, "census: %s: %s\n", argv[1], strerror(errno));
    return EXIT_FAILURE;
  }
  if (census.distinct.used > 0) qsort(census.distinct.slots, census.distinct.capacity, sizeof(struct word), compare);
  const char *out = getenv("CENSUS_OUT");
  if (out == NULL) out = "census.txt";
  FILE *file = fopen(out, "w");
  if (file != NULL) {
    print_report(file, &census, top, limit);
    if (fclose(file) != 0) file = NULL;
  }
  if (file == NULL) {
    fprintf(stderr, "census: %s: %s\n", out, strerror(errno));
    return EXIT_FAILURE;
  }
  print_report(stdout, &census, top, limit);
  return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
