// torch operators through torch's stable ABI: one build works with every torch from 2.10 on. Python checks
// arguments and names them in its errors; what could crash is checked again here.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "core/buffer.h"
#include "pair/loss.h"
#include "pooled_tensor.h"
#include "tensors.h"

namespace fastssl {
namespace {

struct Arguments {
  PairProblem problem;
  Keep keep;
};

Arguments parse(int64_t loss, const Tensor& x, const MaybeTensor& y, const MaybeTensor& z, const MaybeTensor& ids,
                const MaybeTensor& scale, const MaybeTensor& bias, double scale_value, bool normalize, bool symmetric,
                int64_t ignore_index, int64_t reduction, int64_t keep) {
  STD_TORCH_CHECK(loss >= 0 && loss <= int64_t(Loss::linear_cross_entropy), "fastssl: unknown loss ", loss);
  STD_TORCH_CHECK(reduction >= 0 && reduction <= int64_t(Reduction::mean), "fastssl: unknown reduction ", reduction);
  STD_TORCH_CHECK(keep >= 0 && keep <= int64_t(Keep::attention), "fastssl: unknown value of keep ", keep);
  PairProblem p;
  p.loss = Loss(loss);
  p.reduction = Reduction(reduction);
  p.normalize = normalize;
  p.symmetric = symmetric;
  p.ignore_index = ignore_index;
  p.dtype = dtype_of(x);
  STD_TORCH_CHECK(x.dim() == 2, "fastssl: expected matrices");
  p.depth = x.size(1);
  p.x.push_back(source_of(x, p.depth));
  const bool both_x = p.loss == Loss::nt_xent;
  if (y) (both_x ? p.x : p.y).push_back(source_of(*y, p.depth));
  if (z) p.y.push_back(source_of(*z, p.depth));
  for (const auto* side : {&p.x, &p.y})
    for (const Source& s : *side) STD_TORCH_CHECK(s.dtype == p.dtype, "fastssl: tensors of different dtypes");
  const int64_t n = p.n(), m = p.m();
  STD_TORCH_CHECK(p.depth >= 1, "fastssl: rows need at least one feature");
  STD_TORCH_CHECK(n < INT32_MAX - kBlock && m < INT32_MAX - kBlock, "fastssl: too many rows");
  switch (p.loss) {
    case Loss::nt_xent:
      STD_TORCH_CHECK(y && !z && p.x[0].n == p.x[1].n, "fastssl: nt_xent needs two views of one length");
      break;
    case Loss::sup_con: STD_TORCH_CHECK(!y && !z && ids, "fastssl: sup_con needs labels and one set of rows"); break;
    case Loss::info_nce:
      STD_TORCH_CHECK(y && p.y[0].n == n && !(z && symmetric), "fastssl: info_nce needs a key for every query");
      break;
    case Loss::siglip: STD_TORCH_CHECK(y && !z && m == n, "fastssl: siglip needs a text for every image"); break;
    case Loss::linear_cross_entropy:
      STD_TORCH_CHECK(y && !z && ids, "fastssl: linear_cross_entropy needs a weight and targets");
      break;
  }
  STD_TORCH_CHECK(!symmetric || p.loss == Loss::info_nce, "fastssl: only info_nce is symmetric");
  if (ids) {
    STD_TORCH_CHECK(ids->is_cpu() && ids->scalar_type() == ScalarType::Long && ids->dim() == 1 &&
                        ids->is_contiguous() && ids->size(0) == n,
                    "fastssl: ids must be contiguous int64 [rows]");
    p.ids = static_cast<const int64_t*>(ids->const_data_ptr());
    if (p.loss == Loss::linear_cross_entropy)
      for (int64_t i = 0; i < n; ++i)
        STD_TORCH_CHECK(p.ids[i] == ignore_index || (p.ids[i] >= 0 && p.ids[i] < m), "fastssl: target ", p.ids[i],
                        " is outside [0, ", m, ")");
  }
  p.scale = scale_value;
  if (scale) {
    const auto v = values(*scale);
    STD_TORCH_CHECK(v.size() == 1, "fastssl: the scale must be one value");
    p.scale *= v[0];
  }
  STD_TORCH_CHECK(!p.self_pairs() || p.scale > 0 || p.scale != p.scale, "fastssl: the temperature must be positive");
  if (bias) {
    p.bias = values(*bias);
    STD_TORCH_CHECK(p.bias.size() == 1 || int64_t(p.bias.size()) == m,
                    "fastssl: bias must be one value or one per row");
  }
  return {std::move(p), Keep(keep)};
}

// Interrupted is turned into KeyboardInterrupt by Python; the stable ABI passes on the text alone.
std::tuple<Tensor, Tensor, Tensor> forward(int64_t loss, Tensor x, MaybeTensor y, MaybeTensor z, MaybeTensor ids,
                                           MaybeTensor scale, MaybeTensor bias, double scale_value, bool normalize,
                                           bool symmetric, int64_t ignore_index, int64_t reduction, int64_t keep) {
  x = rows_of(x), y = rows_of(y), z = rows_of(z);
  const Arguments a =
      parse(loss, x, y, z, ids, scale, bias, scale_value, normalize, symmetric, ignore_index, reduction, keep);
  const PairProblem& p = a.problem;
  const int64_t n = p.n();
  const bool none = p.reduction == Reduction::none;
  const ScalarType result = p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
  Tensor out = none ? empty({n}, result) : empty({}, result);
  Tensor stats = empty({stats_numel(p)}, ScalarType::Double);
  const int64_t kept_size = kept_numel(p, a.keep);
  Tensor kept = new_pooled(x, kept_size, result);
  Buffer<double> rows(n);
  pair_loss_forward(p, a.keep, kept_size ? kept.mutable_data_ptr() : nullptr,
                    static_cast<double*>(stats.mutable_data_ptr()), rows.data());
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (none) write(out, i, rows[i]);
    total += rows[i];
  }
  if (!none) {
    const double valid = static_cast<const double*>(stats.const_data_ptr())[stats_numel(p) - 1];
    write(out, 0, p.reduction == Reduction::mean ? (valid > 0 ? total / valid : total) : total);
  }
  return {out, stats, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(Tensor grad, Tensor stats, Tensor kept, int64_t loss,
                                                            Tensor x, MaybeTensor y, MaybeTensor z, MaybeTensor ids,
                                                            MaybeTensor scale, MaybeTensor bias, double scale_value,
                                                            bool normalize, bool symmetric, int64_t ignore_index,
                                                            int64_t reduction, int64_t keep, int64_t needs) {
  x = rows_of(x), y = rows_of(y), z = rows_of(z);
  const Arguments a =
      parse(loss, x, y, z, ids, scale, bias, scale_value, normalize, symmetric, ignore_index, reduction, keep);
  const PairProblem& p = a.problem;
  STD_TORCH_CHECK(stats.is_contiguous() && stats.scalar_type() == ScalarType::Double && stats.numel() == stats_numel(p),
                  "fastssl: stats do not belong to these inputs");
  STD_TORCH_CHECK(kept.is_contiguous() && kept.numel() == kept_numel(p, a.keep) &&
                      kept.scalar_type() == (p.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float),
                  "fastssl: kept tiles do not belong to these inputs");
  const std::vector<double> upstream = values(grad);
  STD_TORCH_CHECK(int64_t(upstream.size()) == (p.reduction == Reduction::none ? p.n() : 1),
                  "fastssl: gradient of the wrong size");
  auto like = [&](const MaybeTensor& t, int bit) { return gradient_like(t, needs >> bit & 1, x.scalar_type()); };
  const MaybeTensor maybe_x = x;
  Tensor gx = like(maybe_x, 0), gy = like(y, 1), gz = like(z, 2), gs = like(scale, 3), gb = like(bias, 4);
  auto target = [&](Tensor& t, const MaybeTensor& of, int bit) {
    return of && (needs >> bit & 1) ? t.mutable_data_ptr() : nullptr;
  };
  PairGradients out;
  const bool both_x = p.loss == Loss::nt_xent;
  out.x.push_back(target(gx, maybe_x, 0));
  if (y) (both_x ? out.x : out.y).push_back(target(gy, y, 1));
  if (z) out.y.push_back(target(gz, z, 2));
  double scale_grad = 0;
  std::vector<double> bias_grad(p.bias.size());
  if (scale && (needs >> 3 & 1)) out.scale = &scale_grad;
  if (bias && (needs >> 4 & 1)) out.bias = bias_grad.data();
  pair_loss_backward(p, a.keep, kept.numel() ? kept.const_data_ptr() : nullptr,
                     static_cast<const double*>(stats.const_data_ptr()), upstream.data(), out);
  if (out.scale) write(gs, 0, scale_grad * scale_value);
  if (out.bias)
    for (size_t j = 0; j < bias_grad.size(); ++j) write(gb, int64_t(j), bias_grad[j]);
  return {gx, gy, gz, gs, gb};
}

}  // namespace
}  // namespace fastssl

STABLE_TORCH_LIBRARY(fastssl, m) {
  m.def(
      "pair_loss(int loss, Tensor x, Tensor? y, Tensor? z, Tensor? ids, Tensor? scale, Tensor? bias, float "
      "scale_value, "
      "bool normalize, bool symmetric, int ignore_index, int reduction, int keep) -> (Tensor, Tensor, Tensor)");
  m.def(
      "pair_loss_backward(Tensor grad, Tensor stats, Tensor kept, int loss, Tensor x, Tensor? y, Tensor? z, Tensor? "
      "ids, "
      "Tensor? scale, Tensor? bias, float scale_value, bool normalize, bool symmetric, int ignore_index, int "
      "reduction, "
      "int keep, int needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastssl, CPU, m) {
  m.impl("pair_loss", TORCH_BOX(&fastssl::forward));
  m.impl("pair_loss_backward", TORCH_BOX(&fastssl::backward));
}
