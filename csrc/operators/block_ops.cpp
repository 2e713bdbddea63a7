// Operators on blocks of a pair matrix whose rows live in several places: see BlockSums in pair/loss.h. They
// have no autograd of their own: fastssl/distributed puts blocks together.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "pair/loss.h"
#include "pooled_tensor.h"
#include "tensors.h"

namespace fastssl {
namespace {

PairProblem parse(const Tensor& x, const MaybeTensor& y, const MaybeTensor& partner, const MaybeTensor& x_ids,
                  const MaybeTensor& y_ids, double scale, double bias, double normalize, bool sigmoid) {
  PairProblem p;
  p.positives = Positives::targets;
  p.ignore_index = -1;
  if (sigmoid) p.closing = Closing::sigmoid_loss;
  p.normalize = normalize;
  p.scale = scale;
  if (bias != 0) p.bias = {bias};
  p.dtype = dtype_of(x);
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) >= 1, "fastssl: expected rows of at least one feature");
  STD_TORCH_CHECK(y || !sigmoid, "fastssl: a sigmoid loss compares two sets of rows");
  p.depth = x.size(1);
  p.x.push_back(source_of(x, p.depth));
  if (y) p.y.push_back(source_of(*y, p.depth));
  STD_TORCH_CHECK(!y || p.y[0].dtype == p.dtype, "fastssl: tensors of different dtypes");
  const int64_t n = p.n(), m = p.m();
  STD_TORCH_CHECK(n < INT32_MAX - kBlock && m < INT32_MAX - kBlock, "fastssl: too many rows");
  STD_TORCH_CHECK(!p.self_pairs() || scale > 0 || scale != scale, "fastssl: the temperature must be positive");
  STD_TORCH_CHECK(bool(y_ids) == (x_ids && y), "fastssl: ids of one side");
  if (x_ids) p.x_same.assign(ids_of(*x_ids, "ids", n), ids_of(*x_ids, "ids", n) + n);
  if (y_ids) p.y_same.assign(ids_of(*y_ids, "ids", m), ids_of(*y_ids, "ids", m) + m);
  if (!partner) return p;
  p.ids = ids_of(*partner, "partners", n);
  for (int64_t i = 0; i < n; ++i) {
    STD_TORCH_CHECK(p.ids[i] >= -1 && p.ids[i] < m, "fastssl: partner ", p.ids[i], " is outside [0, ", m, ")");
    STD_TORCH_CHECK(y || p.ids[i] < 0 || (p.ids[i] != i && p.ids[p.ids[i]] == i),
                    "fastssl: partners among the rows themselves must be mutual");
  }
  return p;
}

double* doubles(Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); }
const double* doubles(const MaybeTensor& t, int64_t count) {
  if (!t) return nullptr;
  STD_TORCH_CHECK(t->is_cpu() && t->scalar_type() == ScalarType::Double && t->is_contiguous() && t->numel() == count,
                  "fastssl: expected ", count, " contiguous float64 values");
  return static_cast<const double*>(t->const_data_ptr());
}
ScalarType computed(const PairProblem& p) { return p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(Tensor x, MaybeTensor y, MaybeTensor partner,
                                                           MaybeTensor x_ids, MaybeTensor y_ids, double scale,
                                                           double bias, double normalize, bool sigmoid, bool columns,
                                                           bool keep) {
  x = rows_of(x), y = rows_of(y);
  const PairProblem p = parse(x, y, partner, x_ids, y_ids, scale, bias, normalize, sigmoid);
  STD_TORCH_CHECK(!columns || (y && !sigmoid), "fastssl: no sums by column here");
  const int64_t n = p.n();
  const Keep kind = keep ? Keep::tiles : Keep::nothing;
  Tensor sums = empty({n}, ScalarType::Double), score = empty({n}, ScalarType::Double);
  Tensor by_column = empty({columns ? p.m() : 0}, ScalarType::Double);
  Tensor other = empty({sigmoid ? n : 0}, ScalarType::Double);
  const int64_t numel = kept_numel(p, kind);
  Tensor kept = new_pooled(x, {numel}, computed(p));
  BlockSums out;
  out.x = doubles(sums);
  out.y = columns ? doubles(by_column) : nullptr;
  out.other = doubles(other);
  out.score = doubles(score);
  pair_block_forward(p, kind, numel ? kept.mutable_data_ptr() : nullptr, out);
  return {sums, by_column, score, other, kept};
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor x, MaybeTensor y, MaybeTensor partner, MaybeTensor x_ids,
                                            MaybeTensor y_ids, double scale, double bias, double normalize,
                                            bool sigmoid, MaybeTensor kept, Tensor x_weight, MaybeTensor x_lse,
                                            MaybeTensor y_weight, MaybeTensor y_lse, MaybeTensor partner_weight,
                                            int64_t needs) {
  x = rows_of(x), y = rows_of(y);
  const PairProblem p = parse(x, y, partner, x_ids, y_ids, scale, bias, normalize, sigmoid);
  const int64_t n = p.n(), m = p.m();
  const Keep kind = kept && kept->numel() ? Keep::tiles : Keep::nothing;
  STD_TORCH_CHECK(kind == Keep::nothing || (kept->is_contiguous() && kept->numel() == kept_numel(p, kind) &&
                                            kept->scalar_type() == computed(p)),
                  "fastssl: kept tiles do not belong to these inputs");
  BlockWeights w;
  w.x = doubles(MaybeTensor(x_weight), n);
  w.x_lse = doubles(x_lse, n);
  w.y = doubles(y_weight, m);
  w.y_lse = doubles(y_lse, m);
  w.partner = doubles(partner_weight, n);
  STD_TORCH_CHECK((x_lse || sigmoid) && bool(y_weight) == bool(y_lse), "fastssl: weights need their log-sums");
  auto place = [&](const MaybeTensor& of, bool wanted) {
    return of && wanted ? empty({of->size(0), of->size(1)}, computed(p)) : empty({0}, computed(p));
  };
  Tensor gx = place(MaybeTensor(x), needs & 1), gy = place(y, needs & 2), gs = empty({}, ScalarType::Double);
  PairGradients out;
  out.x.push_back(needs & 1 ? gx.mutable_data_ptr() : nullptr);
  if (y) out.y.push_back(needs & 2 ? gy.mutable_data_ptr() : nullptr);
  *doubles(gs) = 0;
  if (needs & 4) out.scale = doubles(gs);
  pair_block_backward(p, kind, kind == Keep::tiles ? kept->const_data_ptr() : nullptr, w, out);
  return {gx, gy, gs};
}

}  // namespace
}  // namespace fastssl

#define FASTSSL_BLOCK_ARGUMENTS                                                                                    \
  "Tensor x, Tensor? y, Tensor? partner, Tensor? x_ids, Tensor? y_ids, float scale, float bias, float normalize, " \
  "bool sigmoid"

STABLE_TORCH_LIBRARY_FRAGMENT(fastssl, m) {
  m.def("pair_block(" FASTSSL_BLOCK_ARGUMENTS ", bool columns, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("pair_block_backward(" FASTSSL_BLOCK_ARGUMENTS
        ", Tensor? kept, Tensor x_weight, Tensor? x_lse, Tensor? y_weight, Tensor? y_lse, Tensor? partner_weight, "
        "int needs) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("pair_block", TORCH_BOX(&fastssl::forward));
  m.impl("pair_block_backward", TORCH_BOX(&fastssl::backward));
}
