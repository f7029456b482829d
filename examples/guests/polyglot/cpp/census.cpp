// census DATA LIMIT: see the README of this directory's parent for what is counted.
//
// WASI has no C++ exceptions, so what can fail says so by what it returns, and files are read with C's stdio, which every
// libc++ for wasm has; <fstream> is not in all of them. uint64_t throughout: a size_t has 32 bits.
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

constexpr std::uint64_t kLimitMax = 5'000'000;
constexpr std::uint64_t kTopMax = 100;
constexpr std::uint64_t kTop = 5;
constexpr int kUsage = 2;

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
  void operator()(DIR* directory) const { closedir(directory); }
};
using File = std::unique_ptr<std::FILE, Close>;
using Directory = std::unique_ptr<DIR, Close>;

constexpr bool is_letter(char byte) { return ('a' <= byte && byte <= 'z') || ('A' <= byte && byte <= 'Z'); }
constexpr char lower(char letter) { return static_cast<char>(letter | 0x20); }

/// The content of a file; nothing, with errno set, if it cannot be read.
std::optional<std::string> read(const std::string& path) {
  const File file{std::fopen(path.c_str(), "rb")};
  if (!file) return std::nullopt;
  std::string content;
  std::vector<char> piece(1 << 16);
  while (const std::size_t size = std::fread(piece.data(), 1, piece.size(), file.get())) content.append(piece.data(), size);
  if (std::ferror(file.get())) return std::nullopt;
  return content;
}

std::vector<std::uint64_t> primes_below(std::uint64_t limit) {
  std::vector<bool> composite(limit);
  std::vector<std::uint64_t> primes;
  for (std::uint64_t number = 2; number < limit; ++number) {
    if (composite[number]) continue;
    primes.push_back(number);
    for (std::uint64_t multiple = number * number; multiple < limit; multiple += number) composite[multiple] = true;
  }
  return primes;
}

class Census {
 public:
  /// Counts a file, or the files directly in a directory. False, with errno set, if something cannot be read.
  bool add(const std::string& data) {
    const Directory directory{opendir(data.c_str())};
    if (!directory) return errno == ENOTDIR && add_file(data);
    while (const dirent* entry = readdir(directory.get())) {
      const std::string path = data + '/' + entry->d_name;
      struct stat found {};
      const bool is_file = stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
      if (is_file && !add_file(path)) return false;
    }
    return true;
  }

  std::string report(std::uint64_t top, std::uint64_t limit) const {
    std::string text;
    const auto line = [&text](std::string_view name, std::uint64_t value) {
      text.append(name).append(" ").append(std::to_string(value)).append("\n");
    };
    std::vector<std::pair<std::string, std::uint64_t>> sorted(distinct_.begin(), distinct_.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& one, const auto& other) {
      return one.second != other.second ? one.second > other.second : one.first < other.first;
    });
    line("files", files_);
    line("bytes", bytes_);
    line("lines", lines_);
    line("words", words_);
    line("distinct", sorted.size());
    sorted.resize(std::min<std::size_t>(sorted.size(), top));
    for (const auto& [word, count] : sorted) line("top " + word, count);
    const auto primes = primes_below(limit);
    std::uint64_t squares = 0;
    for (const std::uint64_t prime : primes) squares += prime * prime;
    line("primes", primes.size());
    line("squares", squares);
    return text;
  }

 private:
  bool add_file(const std::string& path) {
    const auto content = read(path);
    if (!content) return false;
    ++files_;
    bytes_ += content->size();
    lines_ += static_cast<std::uint64_t>(std::count(content->begin(), content->end(), '\n'));
    for (auto at = content->begin(); at != content->end();) {
      const auto begin = std::find_if(at, content->end(), is_letter);
      at = std::find_if_not(begin, content->end(), is_letter);
      if (begin == at) break;
      std::string word(begin, at);
      std::transform(word.begin(), word.end(), word.begin(), lower);
      ++distinct_[std::move(word)];
      ++words_;
    }
    return true;
  }

  std::uint64_t files_ = 0, bytes_ = 0, lines_ = 0, words_ = 0;
  std::unordered_map<std::string, std::uint64_t> distinct_;
};

std::optional<std::uint64_t> number(std::string_view text, std::uint64_t least, std::uint64_t most) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc{} && end == text.data() + text.size();
  if (!whole || value < least || value > most) return std::nullopt;
  return value;
}

int fail(const std::string& what) {
  std::fprintf(stderr, "census: %s: %s\n", what.c_str(), std::strerror(errno));
  return EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  const char* wanted = std::getenv("CENSUS_TOP");
  const auto top = wanted == nullptr ? std::optional{kTop} : number(wanted, 0, kTopMax);
  const auto limit = argc == 3 ? number(argv[2], 2, kLimitMax) : std::nullopt;
  if (!top || !limit) {
    std::fputs("usage: census DATA LIMIT (2 to 5000000; CENSUS_TOP: 0 to 100)\n", stderr);
    return kUsage;
  }
  Census census;
  if (!census.add(argv[1])) return fail(argv[1]);
  const std::string report = census.report(*top, *limit);
  const char* named = std::getenv("CENSUS_OUT");
  const std::string out = named == nullptr ? "census.txt" : named;
  const File file{std::fopen(out.c_str(), "wb")};
  const bool written = file && std::fwrite(report.data(), 1, report.size(), file.get()) == report.size();
  if (!written || std::fflush(file.get()) != 0) return fail(out);
  std::fputs(report.c_str(), stdout);
  return EXIT_SUCCESS;
}
