// Training of Word2Vec's tables on a text.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "windows.h"

namespace fastssl {

struct TableView {
  float* data;
  int64_t rows;
};

struct TrainingOptions {
  WindowOptions windows;
  uint32_t epochs;
  float rate, least_rate;  // falls linearly over all epochs
  bool reproducible;       // else threads write to the tables without waiting for each other
};

struct Progress {
  int64_t position;  // in the epoch
  double loss;       // of the pairs of some windows; a multiple of 2^-16, so that sums of them are exact
  int64_t terms;     // how many pairs
};

class WordTrainer {
 public:
  // Positions between two points at which a run can stop and go on: the segments of a step.
  static constexpr int64_t kSegments = 16;
  int64_t step_positions() const { return kSegments * segment_positions_; }

  WordTrainer(Text text, TableView in, TableView out, int64_t stride, TrainingOptions options,
              int64_t segment_positions);
  ~WordTrainer();
  // Trains from `begin`, a multiple of step_positions(), over at most `steps` steps of an epoch.
  Progress train(uint32_t epoch, int64_t begin, int64_t steps);

 private:
  struct Segment;
  struct Worker;
  float rate_at(uint32_t epoch, int64_t position) const;
  void prepare(Segment& segment, Worker& worker, uint32_t epoch, int64_t begin, int64_t end);
  void run(Segment& segment, Worker& worker, float rate, float* in, float* out);
  void merge(int64_t segments, float rate);
  float mean_square(const TableView& table) const;

  const Text text_;
  const TableView in_, out_;
  const int64_t stride_;
  const TrainingOptions options_;
  const int64_t segment_positions_;
  std::vector<std::unique_ptr<Segment>> segments_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace fastssl
