// Reproducible training. A step of the text is cut into segments, whatever the number of threads. A segment copies the
// rows it needs from the tables as the step found them and trains on its copies as if it were alone; then the changes
// of all segments are brought back to the tables, in the order of the segments. What a segment sees of the others is a
// step old, as with threads that write to the tables without waiting for each other, but it is the same in every run.
#include "train.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "core/isa.h"
#include "core/parallel.h"
#include "window.h"

namespace fastssl {

namespace {

// Slope of the sigmoid that pairs meet on the way to the balance. Measured: the largest for which vectors are as good
// as without reproducible segments; the ends of the range, 0 and 1/4, diverge and learn slowly.
constexpr float kSlope = 0.03f;
constexpr int kMostSegments = int(WordTrainer::kSegments);
constexpr int64_t kMeasured = 8;  // every eighth window's loss

// Copies of the rows of one table, in the order in which they were first needed.
struct Copies {
  std::vector<int32_t> rows;  // of the table
  std::vector<int32_t> uses;  // pairs of the segment that moved each
  std::vector<float> data;
  void clear() { rows.clear(), uses.clear(); }
};

// Where a table's rows are among the copies of the segment at work.
struct Places {
  std::vector<int32_t> place;
  std::vector<uint32_t> mark;
  uint32_t now = 0;

  explicit Places(int64_t rows) : place(size_t(rows)), mark(size_t(rows), 0) {}
  void start() {
    if (++now == 0) {
      std::fill(mark.begin(), mark.end(), 0);
      now = 1;
    }
  }
  int32_t of(int32_t row, Copies& copies) {
    if (mark[size_t(row)] != now) {
      mark[size_t(row)] = now;
      place[size_t(row)] = int32_t(copies.rows.size());
      copies.rows.push_back(row);
      copies.uses.push_back(0);
    }
    return place[size_t(row)];
  }
};

void prefetch_row(const float* row, int64_t stride) {
  for (int64_t d = 0; d < stride; d += kRowFloats) __builtin_prefetch(row + d);
}

void copy_rows(Copies& c, const float* table, int64_t stride) {
  constexpr size_t kAhead = 8;
  const size_t n = c.rows.size();
  if (c.data.size() < n * size_t(stride)) c.data.resize(n * size_t(stride) * 5 / 4);
  for (size_t k = 0; k < n; ++k) {
    if (k + kAhead < n) prefetch_row(table + c.rows[k + kAhead] * stride, stride);
    std::memcpy(c.data.data() + k * size_t(stride), table + c.rows[k] * stride, size_t(stride) * sizeof(float));
  }
}

// Brings the copies of all segments back to a table. Rows are divided among threads; those of one row are added in the
// order of the segments.
//
// The changes of a row that few segments moved are added, but a common word is moved by all of them, each of which took
// it most of the way to where it is in balance: their sum would take it segments times too far. If n pairs of a segment
// shrink the distance to the balance by exp(-a n), all segments one after the other would have shrunk it by exp(-a sum
// n): the sum of the changes is multiplied by (1 - exp(-a sum n)) / sum (1 - exp(-a n)), which is 1 where a n is small,
// and makes the sum a mean where it is large. a = rate * slope of the sigmoid * squared norm of the rows on the other
// side.
struct Merge {
  struct Link {
    int32_t segment, slot, next;
  };
  std::vector<Link> links;
  std::vector<int32_t> first, last, owned;

  explicit Merge(int64_t rows) : first(size_t(rows), -1), last(size_t(rows)) {}

  void run(const std::vector<const Copies*>& segments, float* table, int64_t stride, float a, int64_t part,
           int64_t parts) {
    const WordTable& kernels = *isa().words;
    links.clear();
    owned.clear();
    for (size_t k = 0; k < segments.size(); ++k)
      for (size_t r = 0; r < segments[k]->rows.size(); ++r) {
        const int32_t row = segments[k]->rows[r];
        if (row % parts != part) continue;
        const auto link = int32_t(links.size());
        links.push_back({int32_t(k), int32_t(r), -1});
        if (first[size_t(row)] < 0) {
          first[size_t(row)] = link;
          owned.push_back(row);
        } else {
          links[size_t(last[size_t(row)])].next = link;
        }
        last[size_t(row)] = link;
      }
    constexpr size_t kAhead = 8;
    for (size_t o = 0; o < owned.size(); ++o) {
      if (o + kAhead < owned.size()) prefetch_row(table + owned[o + kAhead] * stride, stride);
      float* to = table + owned[o] * stride;
      int32_t& head = first[size_t(owned[o])];
      const float* copies[kMostSegments];
      int count = 0;
      float sum = 0, apart = 0;
      for (int32_t at = head; at >= 0; at = links[size_t(at)].next) {
        const Link& link = links[size_t(at)];
        copies[count++] = segments[size_t(link.segment)]->data.data() + link.slot * stride;
        const float pairs = a * float(segments[size_t(link.segment)]->uses[size_t(link.slot)]);
        sum += pairs;
        apart += 1.f - std::exp(-pairs);
      }
      head = -1;
      if (count == 1) {
        std::memcpy(to, copies[0], size_t(stride) * sizeof(float));
      } else {
        kernels.merge(to, copies, count, apart > 0 ? (1.f - std::exp(-sum)) / apart : 1.f, stride);
      }
    }
  }
};

}  // namespace

struct WordTrainer::Segment {
  Windows windows;
  Copies in, out;
  double loss = 0;
  int64_t terms = 0;
};

struct WordTrainer::Worker {
  WindowFinder finder;
  WindowScratch scratch;
  Places in, out;
  Merge merge;
  Worker(int64_t in_rows, int64_t out_rows) : in(in_rows), out(out_rows), merge(std::max(in_rows, out_rows)) {}
};

WordTrainer::WordTrainer(Text text, TableView in, TableView out, int64_t stride, TrainingOptions options,
                         int64_t segment_positions)
    : text_(text), in_(in), out_(out), stride_(stride), options_(options), segment_positions_(segment_positions) {
  for (int64_t k = 0; k < kSegments; ++k) segments_.push_back(std::make_unique<Segment>());
}

WordTrainer::~WordTrainer() = default;

float WordTrainer::rate_at(uint32_t epoch, int64_t position) const {
  const double total = double(text_.size) * double(options_.epochs);
  const double done = (double(text_.size) * double(epoch) + double(position)) / std::max(total, 1.0);
  return std::max(options_.least_rate, float(double(options_.rate) * (1.0 - done)));
}

void WordTrainer::prepare(Segment& segment, Worker& worker, uint32_t epoch, int64_t begin, int64_t end) {
  worker.finder.find(text_, options_.windows, epoch, begin, end, segment.windows);
  if (!options_.reproducible) return;
  segment.in.clear();
  segment.out.clear();
  worker.in.start();
  worker.out.start();
  Windows& all = segment.windows;
  for (int32_t& row : all.inputs) row = worker.in.of(row, segment.in);
  for (int32_t& row : all.outputs) row = worker.out.of(row, segment.out);
  int64_t input = 0, output = 0;
  for (int64_t k = 0; k < all.size(); ++k) {
    const auto inputs = int32_t(all.input_ends[size_t(k)] - input);
    const auto outputs = int32_t(all.output_ends[size_t(k)] - output);
    for (; input < all.input_ends[size_t(k)]; ++input) segment.in.uses[size_t(all.inputs[size_t(input)])] += outputs;
    for (; output < all.output_ends[size_t(k)]; ++output)
      segment.out.uses[size_t(all.outputs[size_t(output)])] += inputs;
  }
  copy_rows(segment.in, in_.data, stride_);
  copy_rows(segment.out, out_.data, stride_);
}

void WordTrainer::run(Segment& segment, Worker& worker, float rate, float* in, float* out) {
  const WordTable& kernels = *isa().words;
  const Windows& all = segment.windows;
  segment.loss = 0;
  segment.terms = 0;
  int64_t input = 0, output = 0;
  const auto ahead = [&](int64_t k) {
    if (k >= all.size()) return;
    for (int64_t i = all.input_ends[size_t(k - 1)]; i < all.input_ends[size_t(k)]; ++i)
      prefetch_row(in + all.inputs[size_t(i)] * stride_, stride_);
    for (int64_t i = all.output_ends[size_t(k - 1)]; i < all.output_ends[size_t(k)]; ++i)
      prefetch_row(out + all.outputs[size_t(i)] * stride_, stride_);
  };
  for (int64_t k = 0; k < all.size(); ++k) {
    ahead(k + 1);
    Window w;
    w.in = in;
    w.out = out;
    w.stride = stride_;
    w.inputs = all.inputs.data() + input;
    w.input_weights = all.input_weights.data() + input;
    w.n_inputs = int32_t(all.input_ends[size_t(k)] - input);
    w.outputs = all.outputs.data() + output;
    w.targets = all.targets.data() + output;
    w.weights = all.weights.data() + output;
    w.n_outputs = int32_t(all.output_ends[size_t(k)] - output);
    w.rate = rate;
    w.mean = options_.windows.cbow;
    const bool measured = k % kMeasured == 0;
    segment.loss += kernels.step(w, worker.scratch, measured);
    if (measured && w.mean) ++segment.terms;
    if (measured && !w.mean)
      for (int32_t i = 0; i < w.n_inputs; ++i) segment.terms += int64_t(w.input_weights[i]);
    input = all.input_ends[size_t(k)];
    output = all.output_ends[size_t(k)];
  }
  segment.loss = std::nearbyint(segment.loss * 65536.0) / 65536.0;
}

// The mean squared norm of the most frequent words' rows, which come first.
float WordTrainer::mean_square(const TableView& table) const {
  const int64_t n = std::min<int64_t>(table.rows, 64) * stride_;
  double sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += double(table.data[k]) * table.data[k];
  return float(sum / double(std::max<int64_t>(n / stride_, 1)));
}

void WordTrainer::merge(int64_t segments, float rate) {
  const int64_t parts = num_threads();
  const float a_in = rate * kSlope * mean_square(out_), a_out = rate * kSlope * mean_square(in_);
  std::vector<const Copies*> in, out;
  for (int64_t k = 0; k < segments; ++k)
    in.push_back(&segments_[size_t(k)]->in), out.push_back(&segments_[size_t(k)]->out);
  on_workers(parts, [&](int64_t part) {
    Merge& merge = workers_[size_t(part)]->merge;
    merge.run(in, in_.data, stride_, a_in, part, parts);
    merge.run(out, out_.data, stride_, a_out, part, parts);
  });
}

Progress WordTrainer::train(uint32_t epoch, int64_t begin, int64_t steps) {
  Progress progress{begin, 0, 0};
  const auto threads = size_t(num_threads());
  while (workers_.size() < threads) workers_.push_back(std::make_unique<Worker>(in_.rows, out_.rows));
  for (int64_t s = 0; s < steps && progress.position < text_.size; ++s) {
    const int64_t first = progress.position, size = std::min(step_positions(), text_.size - first);
    const int64_t segments = ceil_div(size, segment_positions_);
    const float rate = rate_at(epoch, first);
    parallel_tasks(segments, [&](int64_t w, int64_t k) {
      Segment& segment = *segments_[size_t(k)];
      Worker& worker = *workers_[size_t(w)];
      const int64_t from = first + k * segment_positions_;
      prepare(segment, worker, epoch, from, std::min(first + size, from + segment_positions_));
      if (!options_.reproducible) return run(segment, worker, rate, in_.data, out_.data);
      run(segment, worker, rate, segment.in.data.data(), segment.out.data.data());
    });
    if (options_.reproducible) merge(segments, rate);
    for (int64_t k = 0; k < segments; ++k) {
      progress.loss += segments_[size_t(k)]->loss;
      progress.terms += segments_[size_t(k)]->terms;
    }
    progress.position += size;
  }
  return progress;
}

}  // namespace fastssl
