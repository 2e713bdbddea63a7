// Operators over whole rows of scores: row losses, the matrix itself, the nearest rows. As in ops.cpp, Python names
// what is wrong with arguments; what could crash is checked again here.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "pooled_tensor.h"
#include "row/loss.h"
#include "tensors.h"

namespace fastssl {
namespace {

// scores: whether x may be the matrix of scores itself.
void fill(RowProblem& p, const Tensor& x, const MaybeTensor& y, int64_t metric, double normalize, bool scores = false) {
  STD_TORCH_CHECK(metric >= 0 && metric < kMetrics + scores, "fastssl: unknown metric ", metric);
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) >= 1, "fastssl: expected rows of at least one feature");
  STD_TORCH_CHECK(normalize >= 0, "fastssl: rows cannot be divided by ", normalize);
  p.metric = Metric(metric);
  p.normalize = normalize;
  p.dtype = dtype_of(x);
  p.depth = x.size(1);
  p.x = source_of(x, p.depth);
  p.same = !y;
  p.y = y ? source_of(*y, p.depth) : p.x;
  if (p.metric == Metric::given) {
    STD_TORCH_CHECK(!y && (p.dtype == DType::f32 || p.dtype == DType::f64),
                    "fastssl: scores are one matrix of float32 or float64");
    p.same = false;
    p.y.n = p.depth;
    p.depth = 1;
  }
  STD_TORCH_CHECK(p.y.dtype == p.dtype, "fastssl: tensors of different dtypes");
  STD_TORCH_CHECK(p.n() < INT32_MAX - kBlock && p.m() < INT32_MAX - kBlock, "fastssl: too many rows");
}

const int64_t* ids_of(const MaybeTensor& ids, int64_t rows) {
  if (!ids) return nullptr;
  STD_TORCH_CHECK(ids->is_cpu() && ids->scalar_type() == ScalarType::Long && ids->dim() == 1 && ids->is_contiguous() &&
                      ids->size(0) == rows,
                  "fastssl: ids must be contiguous int64 [rows]");
  return static_cast<const int64_t*>(ids->const_data_ptr());
}
const int32_t* bits_of(const MaybeTensor& bits, const RowProblem& p) {
  if (!bits) return nullptr;
  STD_TORCH_CHECK(bits->is_cpu() && bits->scalar_type() == ScalarType::Int && bits->dim() == 2 &&
                      bits->is_contiguous() && bits->size(0) == (p.n() + kBlock - 1) / kBlock && bits->size(1) == p.m(),
                  "fastssl: pair bits must be contiguous int32 [rows / 32, columns]");
  return static_cast<const int32_t*>(bits->const_data_ptr());
}

// The arguments of the operator, in the order of its schema.
#define FASTSSL_ROW_ARGUMENTS                                                                                          \
  Tensor x, MaybeTensor y, MaybeTensor x_ids, MaybeTensor y_ids, MaybeTensor positive_bits, MaybeTensor negative_bits, \
      MaybeTensor row_value, Tensor params, int64_t loss, int64_t metric, double normalize, bool upper,                \
      int64_t self_offset, int64_t keep
#define FASTSSL_ROW_SCHEMA                                                                            \
  "Tensor x, Tensor? y, Tensor? x_ids, Tensor? y_ids, Tensor? positive_bits, Tensor? negative_bits, " \
  "Tensor? row_value, Tensor params, int loss, int metric, float normalize, bool upper, int self_offset, int keep"
#define FASTSSL_ROW_VALUES \
  x, y, x_ids, y_ids, positive_bits, negative_bits, row_value, params, loss, metric, normalize, upper, self_offset, keep

RowLossProblem parse(FASTSSL_ROW_ARGUMENTS) {
  STD_TORCH_CHECK(loss >= 0 && loss < kRowLossValues, "fastssl: unknown row loss ", loss);
  RowLossProblem p;
  fill(p, x, y, metric, normalize, true);
  p.loss = RowLoss(loss);
  p.x_ids = ids_of(x_ids, p.n());
  p.y_ids = ids_of(y_ids, p.m());
  p.positive_bits = bits_of(positive_bits, p);
  p.negative_bits = bits_of(negative_bits, p);
  STD_TORCH_CHECK(positive_bits ? bool(negative_bits) : x_ids && (p.same || y_ids),
                  "fastssl: a relation needs ids of both sides, or bits for positives and negatives");
  STD_TORCH_CHECK(p.same || !upper, "fastssl: only rows against themselves have an upper half");
  STD_TORCH_CHECK(
      self_offset >= -1 && (self_offset < 0 || (self_offset < std::max<int64_t>(p.m(), 1) && p.n() <= p.m())),
      "fastssl: rows of x are not rows of y");
  const bool by_column = p.loss == RowLoss::lifted && !p.same;
  STD_TORCH_CHECK(!by_column || row_value, "fastssl: lifted structure needs the log-sums of columns");
  STD_TORCH_CHECK(!upper || p.loss == RowLoss::hinge || p.loss == RowLoss::lse, "fastssl: no upper half here");
  if (row_value) {
    p.row_value = values(*row_value);
    STD_TORCH_CHECK(int64_t(p.row_value.size()) == (by_column ? p.m() : p.n()), "fastssl: expected one value per row");
  }
  const auto given = values(params);
  STD_TORCH_CHECK(given.size() == kRowParams, "fastssl: expected ", kRowParams, " parameters");
  std::copy(given.begin(), given.end(), p.params);
  STD_TORCH_CHECK(p.loss != RowLoss::fast_ap || (p.params[0] >= 1 && p.params[0] <= kMaxBins),
                  "fastssl: expected 1 to ", kMaxBins, " bins");
  p.upper = upper;
  p.self_offset = self_offset;
  p.keep = keep != 0;
  return p;
}

ScalarType computed(const RowProblem& p) { return p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float; }

std::tuple<Tensor, Tensor> forward(FASTSSL_ROW_ARGUMENTS) {
  if (metric != int64_t(Metric::given)) x = rows_of(x), y = rows_of(y);
  const RowLossProblem p = parse(FASTSSL_ROW_VALUES);
  Tensor out = empty({p.n(), p.columns()}, ScalarType::Double);
  const int64_t numel = row_kept_numel(p);
  Tensor kept = new_pooled(x, {numel}, computed(p));
  row_loss_forward(p, numel ? kept.mutable_data_ptr() : nullptr, static_cast<double*>(out.mutable_data_ptr()));
  return {out, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(Tensor grad, Tensor kept, Tensor out, FASTSSL_ROW_ARGUMENTS,
                                                    int64_t needs) {
  if (metric != int64_t(Metric::given)) x = rows_of(x), y = rows_of(y);
  const RowLossProblem p = parse(FASTSSL_ROW_VALUES);
  for (const Tensor* t : {&grad, &out})
    STD_TORCH_CHECK(t->is_cpu() && t->scalar_type() == ScalarType::Double && t->dim() == 2 && t->size(0) == p.n() &&
                        t->size(1) == p.columns(),
                    "fastssl: outputs do not belong to these inputs");
  STD_TORCH_CHECK(out.is_contiguous(), "fastssl: expected contiguous outputs");
  std::vector<double> upstream(size_t(p.n() * p.columns()));  // sums hand on expanded gradients
  for (int64_t i = 0; i < p.n(); ++i)
    for (int64_t k = 0; k < p.columns(); ++k)
      upstream[size_t(i * p.columns() + k)] =
          static_cast<const double*>(grad.const_data_ptr())[i * grad.stride(0) + k * grad.stride(1)];
  STD_TORCH_CHECK(kept.is_contiguous() && kept.numel() == row_kept_numel(p) && kept.scalar_type() == computed(p),
                  "fastssl: kept scores do not belong to these inputs");
  Tensor gx = gradient_like(x, needs & 1, x.scalar_type()), gy = gradient_like(y, needs & 2, x.scalar_type());
  Tensor gv = gradient_like(row_value, needs & 4, x.scalar_type());
  Tensor gp = gradient_like(params, needs & 8, x.scalar_type());
  std::vector<double> value_grad(size_t(p.n()), 0.0);
  double param_grad[kRowParams] = {};
  RowGradients to;
  if (needs & 1) to.x = gx.mutable_data_ptr();
  if (y && needs & 2) to.y = gy.mutable_data_ptr();
  if (row_value && needs & 4 && p.loss != RowLoss::lifted) to.row_value = value_grad.data();
  if (needs & 8) to.params = param_grad;
  row_loss_backward(p, kept.numel() ? kept.const_data_ptr() : nullptr, static_cast<const double*>(out.const_data_ptr()),
                    upstream.data(), to);
  for (int64_t i = 0; row_value && needs & 4 && i < gv.numel(); ++i)
    write(gv, i, to.row_value ? value_grad[size_t(i)] : 0.0);  // the columns' log-sums are constants
  for (int64_t k = 0; to.params && k < kRowParams; ++k) write(gp, k, param_grad[k]);
  return {gx, gy, gv, gp};
}

Tensor pairwise(Tensor x, MaybeTensor y, int64_t metric, double normalize) {
  x = rows_of(x), y = rows_of(y);
  RowProblem p;
  fill(p, x, y, metric, normalize);
  Tensor out = new_pooled(x, {p.n(), p.m()}, computed(p));
  pairwise_forward(p, out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> pairwise_gradient(Tensor grad, Tensor out, Tensor x, MaybeTensor y, int64_t metric,
                                             double normalize, int64_t needs) {
  x = rows_of(x), y = rows_of(y);
  RowProblem p;
  fill(p, x, y, metric, normalize);
  for (const Tensor* t : {&grad, &out})
    STD_TORCH_CHECK(
        t->is_cpu() && t->scalar_type() == computed(p) && t->dim() == 2 && t->size(0) == p.n() && t->size(1) == p.m(),
        "fastssl: the matrix does not belong to these rows");
  STD_TORCH_CHECK(out.is_contiguous(), "fastssl: expected a contiguous matrix");
  Tensor gx = gradient_like(x, needs & 1, x.scalar_type()), gy = gradient_like(y, needs & 2, x.scalar_type());
  RowGradients to;
  if (needs & 1) to.x = gx.mutable_data_ptr();
  if (y && needs & 2) to.y = gy.mutable_data_ptr();
  pairwise_backward(p, source_of(grad, p.m()), out.const_data_ptr(), to);
  return {gx, gy};
}

std::tuple<Tensor, Tensor> nearest_rows(Tensor x, MaybeTensor y, int64_t k, int64_t metric, double normalize,
                                        bool largest, bool exclude_self) {
  x = rows_of(x), y = rows_of(y);
  RowProblem p;
  fill(p, x, y, metric, normalize);
  STD_TORCH_CHECK(k >= 1 && k <= p.m() - (exclude_self ? 1 : 0),
                  "fastssl: k must be from 1 to the number of rows of y");
  STD_TORCH_CHECK(!exclude_self || p.same, "fastssl: exclude_self needs rows against themselves");
  Tensor values_out = empty({p.n(), k}, computed(p)), indices = empty({p.n(), k}, ScalarType::Long);
  nearest(p, k, largest, exclude_self, values_out.mutable_data_ptr(),
          static_cast<int64_t*>(indices.mutable_data_ptr()));
  return {values_out, indices};
}

// Pairs (a, b) as bits: [n / 32, m] words, bit r of a word for row 32 k + r. A pair that is listed twice sets one bit.
std::tuple<Tensor, int64_t> pair_bits(Tensor a, Tensor b, int64_t n, int64_t m) {
  for (const Tensor* t : {&a, &b})
    STD_TORCH_CHECK(t->is_cpu() && t->scalar_type() == ScalarType::Long && t->dim() == 1 && t->is_contiguous() &&
                        t->numel() == a.numel(),
                    "fastssl: listed pairs must be two contiguous int64 tensors of one length");
  STD_TORCH_CHECK(n >= 0 && m >= 0, "fastssl: negative sizes");
  Tensor bits = empty({(n + kBlock - 1) / kBlock, m}, ScalarType::Int);
  auto* words = static_cast<uint32_t*>(bits.mutable_data_ptr());
  std::fill(words, words + bits.numel(), 0u);
  const auto* rows = static_cast<const int64_t*>(a.const_data_ptr());
  const auto* columns = static_cast<const int64_t*>(b.const_data_ptr());
  int64_t distinct = 0;
  for (int64_t k = 0; k < a.numel(); ++k) {
    STD_TORCH_CHECK(rows[k] >= 0 && rows[k] < n && columns[k] >= 0 && columns[k] < m, "fastssl: pair (", rows[k], ", ",
                    columns[k], ") is outside of [", n, ", ", m, "]");
    uint32_t& word = words[rows[k] / kBlock * m + columns[k]];
    const uint32_t bit = uint32_t(1) << (rows[k] % kBlock);
    distinct += !(word & bit);
    word |= bit;
  }
  return {bits, distinct};
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def("row_loss(" FASTSSL_ROW_SCHEMA ") -> (Tensor, Tensor)");
  m.def("row_loss_backward(Tensor grad, Tensor kept, Tensor out, " FASTSSL_ROW_SCHEMA
        ", int needs) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("pair_bits(Tensor a, Tensor b, int n, int m) -> (Tensor, int)");
  m.def("pairwise(Tensor x, Tensor? y, int metric, float normalize) -> Tensor");
  m.def(
      "pairwise_backward(Tensor grad, Tensor out, Tensor x, Tensor? y, int metric, float normalize, int needs) -> "
      "(Tensor, Tensor)");
  m.def(
      "nearest(Tensor x, Tensor? y, int k, int metric, float normalize, bool largest, bool exclude_self) -> "
      "(Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("pair_bits", TORCH_BOX(&fastssl::pair_bits));
  m.impl("row_loss", TORCH_BOX(&fastssl::forward));
  m.impl("row_loss_backward", TORCH_BOX(&fastssl::backward));
  m.impl("pairwise", TORCH_BOX(&fastssl::pairwise));
  m.impl("pairwise_backward", TORCH_BOX(&fastssl::pairwise_gradient));
  m.impl("nearest", TORCH_BOX(&fastssl::nearest_rows));
}
