// SPDX-License-Identifier: MIT
// nbdload: a fast NBD load client. One thread keeps N connections busy at depth D in one epoll
// loop; many requests leave in one send, all replies that have arrived are parsed after one recv.
// So the server is what is measured, not the client.
#include <getopt.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "measure.h"
#include "nbd_connection.h"

namespace lbd::bench {
namespace {

constexpr std::uint64_t second_ns = 1'000'000'000;
constexpr std::uint64_t stall_limit_ns = 30 * second_ns;

enum class order { random, sequential, once };

struct options {
  endpoint where;
  unsigned connections = 1;
  unsigned depth = 32;
  std::uint32_t block_bytes = 4096;
  unsigned read_percent = 100;
  order access = order::random;
  double seconds = 1.0;
  double warmup_seconds = 0.0;
  std::uint64_t ops = 0;  // 0: run for `seconds`
  std::uint64_t first_byte = 0;
  std::uint64_t area_bytes = 0;    // 0: up to the end of the export
  std::uint64_t stride_bytes = 0;  // distance of possible offsets; 0: block_bytes
  std::uint64_t seed = 1;
  bool spin = false;
  bool verify = false;
  bool fill = false;
  bool flush = false;
  int cpu = -1;
  pid_t server_pid = 0;
};

constexpr const char* usage =
    R"(usage: nbdload (-u SOCKET | -t HOST:PORT) [OPTION...]
Loads an NBD server from one thread and prints the result as JSON.

  -u, --unix SOCKET       connect to a Unix socket
  -t, --tcp HOST:PORT     connect over TCP
  -e, --export NAME       export name (default: the empty name)
      --structured        negotiate structured replies
  -c, --connections N     connections (1)
  -d, --depth N           requests in flight on each connection (32)
  -b, --block SIZE        bytes per request, K and M understood (4K)
  -w, --write             write; without it: read
      --read-percent N    mix: N percent reads, the rest writes
      --sequential        ascending offsets; without it: random ones
      --once              random offsets, each one at most once, then stop
      --fill              write the whole area once, in ascending order (1 MiB, depth 8)
      --flush             flush after the last request, inside the measured time
      --area SIZE         use only so many bytes of the export
      --first OFFSET      where the area begins (0)
      --stride SIZE       offsets are multiples of it (the block size)
  -s, --seconds S         measured time (1)
      --warmup S          run so long before measuring (0)
  -n, --ops N             stop after N requests instead
      --seed N            random seed (1)
      --spin              never sleep while waiting for replies
      --cpu N             run on this CPU
      --verify            writes carry, reads expect a pattern made of offset and seed
  -p, --server-pid PID    report the CPU time of this process and its descendants
)";

[[noreturn]] void die(const std::string& message) {
  std::fprintf(stderr, "nbdload: %s\n", message.c_str());
  std::exit(2);
}

std::uint64_t parse_size(const char* text) {
  char* end = nullptr;
  errno = 0;
  std::uint64_t value = std::strtoull(text, &end, 10);
  if (errno != 0 || end == text || *text == '-') die(std::string("not a size: ") + text);
  const std::string unit = end;
  if (unit == "K") {
    value <<= 10;
  } else if (unit == "M") {
    value <<= 20;
  } else if (unit == "G") {
    value <<= 30;
  } else if (!unit.empty()) {
    die(std::string("unknown unit: ") + text);
  }
  return value;
}

unsigned parse_count(const char* text, std::uint64_t most) {
  const std::uint64_t value = parse_size(text);
  if (value > most) die(std::string("too large: ") + text);
  return static_cast<unsigned>(value);
}

double parse_seconds(const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= 0.0)) die(std::string("not a time: ") + text);
  return value;
}

int parse_cpu(const char* text) { return static_cast<int>(parse_count(text, CPU_SETSIZE - 1)); }

pid_t parse_pid(const char* text) { return static_cast<pid_t>(parse_count(text, 1U << 30)); }

[[noreturn]] void print_usage() {
  std::fputs(usage, stdout);
  std::exit(0);
}

void set_tcp(endpoint& where, const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) die("not HOST:PORT: " + text);
  where.host = text.substr(0, colon);
  where.port = text.substr(colon + 1);
}

void set_fill(options& o) {
  o.fill = true;
  o.read_percent = 0;
  o.access = order::sequential;
  o.block_bytes = 1U << 20;
  o.depth = 8;
}

struct option_spec {
  const char* name;
  char letter;  // '\0': none
  bool has_value;
  void (*apply)(options&, const char* value);
};

using text = const char*;
constexpr option_spec option_specs[] = {
    {"unix", 'u', true, [](options& o, text v) { o.where.unix_path = v; }},
    {"tcp", 't', true, [](options& o, text v) { set_tcp(o.where, v); }},
    {"export", 'e', true, [](options& o, text v) { o.where.export_name = v; }},
    {"structured", 0, false, [](options& o, text) { o.where.structured = true; }},
    {"connections", 'c', true, [](options& o, text v) { o.connections = parse_count(v, 4096); }},
    {"depth", 'd', true, [](options& o, text v) { o.depth = parse_count(v, 65536); }},
    {"block", 'b', true, [](options& o, text v) { o.block_bytes = parse_count(v, 64U << 20); }},
    {"write", 'w', false, [](options& o, text) { o.read_percent = 0; }},
    {"read-percent", 0, true, [](options& o, text v) { o.read_percent = parse_count(v, 100); }},
    {"sequential", 0, false, [](options& o, text) { o.access = order::sequential; }},
    {"once", 0, false, [](options& o, text) { o.access = order::once; }},
    {"fill", 0, false, [](options& o, text) { set_fill(o); }},
    {"flush", 0, false, [](options& o, text) { o.flush = true; }},
    {"area", 0, true, [](options& o, text v) { o.area_bytes = parse_size(v); }},
    {"first", 0, true, [](options& o, text v) { o.first_byte = parse_size(v); }},
    {"stride", 0, true, [](options& o, text v) { o.stride_bytes = parse_size(v); }},
    {"seconds", 's', true, [](options& o, text v) { o.seconds = parse_seconds(v); }},
    {"warmup", 0, true, [](options& o, text v) { o.warmup_seconds = parse_seconds(v); }},
    {"ops", 'n', true, [](options& o, text v) { o.ops = parse_size(v); }},
    {"seed", 0, true, [](options& o, text v) { o.seed = parse_size(v); }},
    {"spin", 0, false, [](options& o, text) { o.spin = true; }},
    {"cpu", 0, true, [](options& o, text v) { o.cpu = parse_cpu(v); }},
    {"verify", 0, false, [](options& o, text) { o.verify = true; }},
    {"server-pid", 'p', true, [](options& o, text v) { o.server_pid = parse_pid(v); }},
    {"help", 'h', false, [](options&, text) { print_usage(); }},
};

// getopt's return value for an option: its letter, or a number above all letters.
int key_of(const option_spec& spec) {
  return spec.letter != '\0' ? spec.letter : 256 + static_cast<int>(&spec - option_specs);
}

options parse_options(int argc, char** argv) {
  std::vector<option> long_options;
  std::string letters;
  for (const option_spec& spec : option_specs) {
    long_options.push_back({spec.name, spec.has_value ? 1 : 0, nullptr, key_of(spec)});
    if (spec.letter != '\0') letters += std::string(1, spec.letter) + (spec.has_value ? ":" : "");
  }
  long_options.push_back({nullptr, 0, nullptr, 0});
  options o;
  int key = 0;
  while ((key = getopt_long(argc, argv, letters.c_str(), long_options.data(), nullptr)) != -1) {
    if (key == '?') die("see nbdload --help");
    for (const option_spec& spec : option_specs) {
      if (key_of(spec) == key) spec.apply(o, optarg);
    }
  }
  if (optind != argc) die(std::string("unexpected argument: ") + argv[optind]);
  if (o.connections == 0 || o.depth == 0 || o.block_bytes == 0) die("a count of 0 makes no load");
  if (o.stride_bytes == 0) o.stride_bytes = o.block_bytes;
  if (o.stride_bytes < o.block_bytes) die("the stride is shorter than a block");
  return o;
}

// Which request comes next.
class generator {
 public:
  generator(const options& o, std::uint64_t size_bytes) : options_(o), state_(o.seed) {
    if (o.first_byte >= size_bytes) die("the area begins behind the end of the export");
    const std::uint64_t most = size_bytes - o.first_byte;
    const std::uint64_t area = o.area_bytes == 0 || o.area_bytes > most ? most : o.area_bytes;
    if (area < o.block_bytes) die("the area is shorter than a block");
    places_ = (area - o.block_bytes) / o.stride_bytes + 1;
    if (o.access == order::once) shuffle();
  }

  std::uint64_t places() const { return places_; }

  command next_command() {
    if (options_.read_percent == 100) return command::read;
    if (options_.read_percent == 0) return command::write;
    return below(100) < options_.read_percent ? command::read : command::write;
  }

  std::uint64_t next_offset() {
    std::uint64_t place = 0;
    switch (options_.access) {
      case order::random:
        place = below(places_);
        break;
      case order::sequential:
        place = step_++ % places_;
        break;
      case order::once:
        place = permutation_[step_++ % places_];
        break;
    }
    return options_.first_byte + place * options_.stride_bytes;
  }

 private:
  std::uint64_t random() {
    state_ += 0x9e3779b97f4a7c15;
    std::uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  std::uint64_t below(std::uint64_t limit) {
    __extension__ using wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<wide>(random()) * limit) >> 64);
  }

  void shuffle() {
    permutation_.resize(places_);
    for (std::uint64_t i = 0; i < places_; i++) permutation_[i] = i;
    for (std::uint64_t i = places_ - 1; i > 0; i--) {
      std::swap(permutation_[i], permutation_[below(i + 1)]);
    }
  }

  const options& options_;
  std::uint64_t state_;
  std::uint64_t places_ = 0;
  std::uint64_t step_ = 0;
  std::vector<std::uint64_t> permutation_;
};

struct totals {
  histogram latency;
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t bytes = 0;
  std::uint64_t errors = 0;
  std::uint64_t mismatches = 0;
  std::uint64_t elapsed_ns = 0;
  std::uint64_t client_cpu_ns = 0;
  std::uint64_t server_cpu_ns = 0;
  std::uint64_t recv_calls = 0;
  std::uint64_t send_calls = 0;
};

// The run: connections, the loop, and the window of time that counts.
class load {
 public:
  explicit load(const options& o);
  totals run();
  std::uint64_t ops_limit() const { return ops_limit_; }

 private:
  void begin_window(std::uint64_t now);
  void end_window(std::uint64_t now);
  void turn(std::uint64_t deadline_ns);
  void refill(connection& c, std::uint64_t now);
  void count(const completion& done, std::uint64_t now);
  void watch_for_send(std::size_t index);
  void flush_all();
  unsigned in_flight() const;
  void drain();

  const options& options_;
  pattern pattern_;
  std::vector<std::unique_ptr<connection>> connections_;
  std::vector<bool> watches_send_;
  std::optional<generator> generator_;
  std::optional<process_tree_cpu> server_;
  int epoll_ = -1;
  std::vector<completion> done_;
  totals totals_;
  std::uint64_t ops_limit_ = 0;
  std::uint64_t issued_ = 0;
  std::uint64_t started_ns_ = 0;
  std::uint64_t cpu_at_start_ns_ = 0;
  std::uint64_t last_reply_ns_ = 0;
  bool issuing_ = true;
  bool measuring_ = false;
};

load::load(const options& o) : options_(o), pattern_(o.seed) {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  for (unsigned i = 0; i < o.connections; i++) {
    connections_.push_back(std::make_unique<connection>(o.where, o.depth, o.block_bytes,
                                                        o.verify ? &pattern_ : nullptr));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, connections_[i]->fd(), &event) != 0) die("epoll_ctl");
  }
  watches_send_.resize(o.connections);
  generator_.emplace(o, connections_.front()->size_bytes());
  if (o.server_pid != 0) server_.emplace(o.server_pid);
  ops_limit_ = o.ops;
  const bool bounded = o.fill || o.access == order::once;
  if (bounded && (ops_limit_ == 0 || ops_limit_ > generator_->places())) {
    ops_limit_ = generator_->places();
  }
}

totals load::run() {
  const std::uint64_t begin = now_ns();
  const auto warmup = static_cast<std::uint64_t>(options_.warmup_seconds * second_ns);
  const auto length = static_cast<std::uint64_t>(options_.seconds * second_ns);
  last_reply_ns_ = begin;
  if (ops_limit_ != 0 || warmup == 0) begin_window(begin);
  for (auto& c : connections_) refill(*c, begin);
  if (!measuring_) {
    while (now_ns() < begin + warmup) turn(begin + warmup);
    begin_window(now_ns());
  }
  if (ops_limit_ != 0) {
    while (in_flight() > 0) turn(UINT64_MAX);
  } else {
    while (now_ns() < started_ns_ + length) turn(started_ns_ + length);
  }
  if (options_.flush) flush_all();
  if (measuring_) end_window(now_ns());
  drain();
  return totals_;
}

void load::begin_window(std::uint64_t now) {
  totals_ = totals{};
  for (const auto& c : connections_) {
    totals_.recv_calls -= c->recv_calls();
    totals_.send_calls -= c->send_calls();
  }
  if (server_) server_->start();
  cpu_at_start_ns_ = own_cpu_ns();
  started_ns_ = now;
  measuring_ = true;
}

void load::end_window(std::uint64_t now) {
  totals_.elapsed_ns = now - started_ns_;
  totals_.client_cpu_ns = own_cpu_ns() - cpu_at_start_ns_;
  if (server_) totals_.server_cpu_ns = server_->elapsed_ns();
  for (const auto& c : connections_) {
    totals_.recv_calls += c->recv_calls();
    totals_.send_calls += c->send_calls();
  }
  measuring_ = false;
}

unsigned load::in_flight() const {
  unsigned sum = 0;
  for (const auto& c : connections_) sum += c->in_flight();
  return sum;
}

void load::refill(connection& c, std::uint64_t now) {
  while (issuing_ && c.can_issue()) {
    if (ops_limit_ != 0 && issued_ == ops_limit_) {
      issuing_ = false;
      break;
    }
    const command cmd = generator_->next_command();
    c.issue(cmd, generator_->next_offset(), options_.block_bytes, now);
    issued_++;
  }
  if (c.wants_to_send()) c.send();
}

void load::count(const completion& done, std::uint64_t now) {
  if (done.error != 0) totals_.errors++;
  if (done.mismatch) totals_.mismatches++;
  if (!measuring_ || done.cmd == command::flush) return;
  totals_.latency.add(now - done.issued_ns);
  totals_.bytes += done.length;
  (done.cmd == command::read ? totals_.reads : totals_.writes)++;
}

void load::watch_for_send(std::size_t index) {
  const bool wanted = connections_[index]->wants_to_send();
  if (wanted == watches_send_[index]) return;
  epoll_event event{};
  event.events = EPOLLIN | (wanted ? EPOLLOUT : 0U);
  event.data.u64 = index;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, connections_[index]->fd(), &event);
  watches_send_[index] = wanted;
}

// One turn of the loop: waits until the deadline at most, takes replies in, sends new requests.
void load::turn(std::uint64_t deadline_ns) {
  std::array<epoll_event, 64> events{};
  int timeout_ms = 0;
  if (!options_.spin) {
    const std::uint64_t now = now_ns();
    const std::uint64_t wait = deadline_ns > now ? deadline_ns - now : 0;
    timeout_ms = wait > second_ns ? 1000 : static_cast<int>(wait / 1'000'000) + 1;
  }
  for (std::size_t i = 0; i < connections_.size(); i++) watch_for_send(i);
  const int count_of_events =
      epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), timeout_ms);
  for (int i = 0; i < count_of_events; i++) {
    connection& c = *connections_[events[static_cast<std::size_t>(i)].data.u64];
    done_.clear();
    if ((events[static_cast<std::size_t>(i)].events & ~EPOLLOUT) != 0) c.receive(done_);
    const std::uint64_t now = now_ns();
    if (!done_.empty()) last_reply_ns_ = now;
    for (const completion& d : done_) count(d, now);
    refill(c, now);
  }
  if (count_of_events <= 0 && now_ns() - last_reply_ns_ > stall_limit_ns) {
    throw nbd_error("no reply for 30 seconds");
  }
}

void load::flush_all() {
  issuing_ = false;
  while (in_flight() > 0) turn(UINT64_MAX);
  for (auto& c : connections_) {
    c->issue(command::flush, 0, 0, now_ns());
    c->send();
  }
  while (in_flight() > 0) turn(UINT64_MAX);
}

void load::drain() {
  issuing_ = false;
  while (in_flight() > 0) turn(UINT64_MAX);
  for (auto& c : connections_) c->disconnect();
  close(epoll_);
}

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) die("cannot run on that CPU");
}

void print(const options& o, const totals& t) {
  const std::uint64_t ops = t.latency.count();
  const double count = ops == 0 ? 1.0 : static_cast<double>(ops);
  const double seconds = static_cast<double>(t.elapsed_ns) / 1e9;
  const auto us = [](double ns) { return ns / 1000.0; };
  const auto percentile = [&](double share) {
    return us(static_cast<double>(t.latency.percentile_ns(share)));
  };
  std::printf("{\"ops\": %llu, \"seconds\": %.6f, \"ops_per_s\": %.1f, \"mb_per_s\": %.2f,\n",
              static_cast<unsigned long long>(ops), seconds, static_cast<double>(ops) / seconds,
              static_cast<double>(t.bytes) / seconds / 1e6);
  std::printf(" \"reads\": %llu, \"writes\": %llu, \"errors\": %llu, \"mismatches\": %llu,\n",
              static_cast<unsigned long long>(t.reads), static_cast<unsigned long long>(t.writes),
              static_cast<unsigned long long>(t.errors),
              static_cast<unsigned long long>(t.mismatches));
  std::printf(
      " \"latency_us\": {\"mean\": %.2f, \"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, "
      "\"p999\": %.2f, \"max\": %.2f},\n",
      us(t.latency.mean_ns()), percentile(0.50), percentile(0.90), percentile(0.99),
      percentile(0.999), us(static_cast<double>(t.latency.max_ns())));
  std::printf(" \"replies_per_recv\": %.2f, \"requests_per_send\": %.2f,\n",
              count / static_cast<double>(t.recv_calls == 0 ? 1 : t.recv_calls),
              count / static_cast<double>(t.send_calls == 0 ? 1 : t.send_calls));
  std::printf(" \"client_cpu_us_per_op\": %.4f, \"server_cpu_us_per_op\": ",
              us(static_cast<double>(t.client_cpu_ns)) / count);
  if (o.server_pid == 0) {
    std::printf("null}\n");
  } else {
    std::printf("%.4f}\n", us(static_cast<double>(t.server_cpu_ns)) / count);
  }
}

}  // namespace
}  // namespace lbd::bench

int main(int argc, char** argv) {
  using namespace lbd::bench;
  const options o = parse_options(argc, argv);
  if (o.cpu >= 0) pin_to(o.cpu);
  try {
    load l(o);
    const totals t = l.run();
    print(o, t);
    return t.errors == 0 && t.mismatches == 0 ? 0 : 1;
  } catch (const nbd_error& e) {
    die(e.what());
  }
}
