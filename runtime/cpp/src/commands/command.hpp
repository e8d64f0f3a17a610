/// Arguments, errors and exit codes of the commands.
#ifndef FLOWSR_COMMAND_HPP
#define FLOWSR_COMMAND_HPP

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <map>
#include <new>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "flowsr/flowsr.hpp"
#include "machine/memory_limit.hpp"

namespace flowsr::detail {

[[noreturn]] inline void misuse(const std::string& message) {
  throw Error(Code::usage, message);
}

/// The parsed words of a command line: options, flags, and positional arguments in `others`.
class Arguments {
 public:
  Arguments(int count, char** words, const std::set<std::string>& options,
            const std::set<std::string>& flags) {
    bool only_words = false;
    for (int i = 1; i < count; ++i) {
      const std::string word = words[i];
      if (only_words || word.size() < 2 || word.compare(0, 2, "--") != 0) {
        if (!only_words && word.size() > 1 && word[0] == '-') misuse("no such option: " + word);
        others.push_back(word);
        continue;
      }
      if (word == "--") {
        only_words = true;
        continue;
      }
      const std::size_t equals = word.find('=');
      const bool joined = equals != std::string::npos;
      std::string name = word.substr(2, joined ? equals - 2 : equals);
      if (name == "memory-budget") name = "max-memory";  // the option's old name
      if (flags.count(name) > 0 && !joined) {
        values_[name] = "";
      } else if (options.count(name) == 0) {
        misuse("no such option: " + word);
      } else if (joined) {
        values_[name] = word.substr(equals + 1);
      } else if (++i < count) {
        values_[name] = words[i];
      } else {
        misuse("--" + name + " needs a value");
      }
    }
  }

  bool has(const std::string& name) const { return values_.count(name) > 0; }

  std::string text(const std::string& name, const std::string& otherwise = "") const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }

  std::uint64_t whole(const std::string& name, std::uint64_t otherwise,
                      std::uint64_t most) const {
    if (!has(name)) return otherwise;
    const std::string value = text(name);
    const bool digits = !value.empty() && value.size() <= 20 &&
                        value.find_first_not_of("0123456789") == std::string::npos;
    errno = 0;
    const unsigned long long number = digits ? std::strtoull(value.c_str(), nullptr, 10) : 0;
    if (!digits || errno != 0 || number > most) {
      misuse("--" + name + " must be a whole number from 0 to " + std::to_string(most) +
             ", got " + value);
    }
    return number;
  }

  double real(const std::string& name) const {
    const std::string value = text(name);
    char* end = nullptr;
    const double number = std::strtod(value.c_str(), &end);
    if (value.empty() || *end != '\0' || !std::isfinite(number) || number < 0) {
      misuse("--" + name + " must be a number of at least 0, got " + value);
    }
    return number;
  }

  std::vector<std::string> others;

 private:
  std::map<std::string, std::string> values_;
};

/// Reads an amount of memory such as 800M or 1.5G; units are powers of 1024.
inline std::int64_t parse_memory(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit(end);
  double factor = 1;
  const std::string units = "KMGT";
  if (!unit.empty() && units.find(unit[0]) != std::string::npos) {
    factor = std::pow(1024.0, static_cast<double>(units.find(unit[0])) + 1);
    unit.erase(0, 1);
  }
  const bool plain = !text.empty() && text[0] >= '0' && text[0] <= '9' &&
                     text.find_first_of("xXeEnN") == std::string::npos;
  if (!plain || !(unit.empty() || unit == "B" || unit == "iB") || !(number > 0) ||
      number * factor > 9e18) {
    misuse("--max-memory must be such as 800M or 1.5G, got " + text);
  }
  return static_cast<std::int64_t>(number * factor);
}

/// The options of `settings_of`.
inline std::set<std::string> with_settings(std::set<std::string> options) {
  options.insert({"backend", "provider", "device", "threads", "precision", "max-memory",
                  "convolution-search"});
  return options;
}

inline Settings settings_of(const Arguments& arguments) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<int>::max());
  Settings settings;
  settings.backend = arguments.text("backend");
  settings.provider = arguments.text("provider");
  settings.precision = arguments.text("precision", "fp32");
  settings.convolution_search = arguments.text("convolution-search", "heuristic");
  settings.tf32 = arguments.has("tf32");
  settings.self_test = !arguments.has("no-self-test");
  settings.device = static_cast<int>(arguments.whole("device", 0, kMost));
  settings.threads = static_cast<int>(arguments.whole("threads", 0, kMost));
  if (arguments.has("max-memory")) {
    settings.memory_budget = parse_memory(arguments.text("max-memory"));
  }
  return settings;
}

/// Runs a command; an exception becomes one line on stderr and the exit code.
template <class Body>
int run_command(const char* name, Body body) {
  // ONNX Runtime 1.29 and newer reports to its makers unless the user or this sets it.
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  use_one_heap_within_limits();
  try {
    const int code = body();
    std::cout.flush();
    if (std::cout) return code;
    std::cerr << name << ": stdout cannot be written: " << std::strerror(errno) << '\n';
    return FLOWSR_FAILURE;
  } catch (const Error& error) {
    std::cerr << name << ": " << error.what() << '\n';
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    std::cerr << name << ": the memory does not suffice\n";
    return FLOWSR_MEMORY;
  } catch (const std::system_error& error) {
    const bool threads = error.code() == std::errc::resource_unavailable_try_again;
    std::cerr << name << ": "
              << (threads ? "the system allows no more threads; give fewer threads, or raise "
                            "the limit (ulimit -u)"
                          : error.what())
              << '\n';
    return threads ? FLOWSR_MEMORY : FLOWSR_FAILURE;
  } catch (const std::exception& error) {
    std::cerr << name << ": " << error.what() << '\n';
    return FLOWSR_FAILURE;
  }
}

}  // namespace flowsr::detail

#endif  // FLOWSR_COMMAND_HPP
