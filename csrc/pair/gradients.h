// From the losses' statistics to the gradients of the inputs. Only loss.cpp includes this.
#pragma once
#include "dense.h"

namespace fastssl {
namespace {

// Where the products of Keep::products are.
template <class T>
struct Products {
  T *x = nullptr, *y = nullptr;
  double* per_col = nullptr;  // sums of g by columns, where each has a bias

  Products() = default;
  Products(const Engine<T>& e, T* kept, double* stats)
      : x(kept),
        y(kept + e.x_numel()),
        per_col(e.p.bias.size() > 1 ? stats + stats_numel(e.p, Keep::nothing) : nullptr) {}
};

// All rows at once, or strips of them.
template <class T>
class Backward {
 public:
  Backward(const Engine<T>& engine, Keep keep, const double* stats, const double* upstream, const PairGradients& wanted,
           const Products<T>& kept = {})
      : e(engine),
        p(e.p),
        n(e.n),
        m(e.m),
        s(layout(p, const_cast<double*>(stats))),
        grad(upstream),
        out(wanted),
        running(e.epilogue == kSoftmaxRunningMax),
        attention(keep == Keep::attention && !running),
        were_kept(keep == Keep::products),
        products(kept),
        a(size_t(n), 0.0),
        x_coefficient(size_t(n), 0.0),
        y_total(running && !p.self_pairs() ? size_t(m) : 0, 0.0) {
    rows.allocate(e.grid.x_blocks * kBlock, running);
    rows.allocate_floor(e.grid.x_blocks * kBlock, running);
    if (p.symmetric && !p.self_pairs()) cols.allocate(e.grid.y_blocks * kBlock, running);
    if (!p.self_pairs()) cols.allocate_floor(e.grid.y_blocks * kBlock, running);
    if (products.x) return;
    if ((want_x() || (p.self_pairs() && want_y())) && !attention) grad_x.allocate(e.x_numel());
    if (want_y() && !p.self_pairs()) grad_y.allocate(e.y_numel());
    if (bias_per_col()) col_total.allocate(e.grid.y_blocks * kBlock);
    products.x = grad_x.data();
    products.y = grad_y.data();
    products.per_col = col_total.data();
  }

  // Adds the dense pairs of rows [first, last), those of ``grid``. Of a loss that is no sum of its rows': all rows.
  void add(const Grid& grid, int64_t first, int64_t last, Keep keep, const T* kept) {
    weigh(first, last);
    if (!attention && (products.x || products.y || bias_per_col()))
      dense_gradients(e, grid, keep, kept, rows, cols, products.x, products.y, products.per_col);
  }

  // The gradients, from the products of add() or those that were kept. `wide`: those of 16-bit inputs are fp32.
  void finish(const T* kept, bool wide) {
    if (were_kept) weigh(0, n);
    if (p.positives == Positives::classes && grad_x.data()) add_positive_means(e, a.data(), grad_x.data());
    // What was kept is for an upstream gradient of 1.
    const double factor = were_kept ? grad[0] : 1.0;
    InputGradients<T> gradients{e, x_coefficient.data()};
    gradients.wide = wide;
    const std::vector<double> row_factor(were_kept ? size_t(std::max(n, m)) : 0, factor);
    if (want_x() || (p.self_pairs() && out.scale)) {
      std::vector<double> dense_weight(attention ? size_t(n) : 0);
      for (int64_t i = 0; attention && i < n; ++i) dense_weight[size_t(i)] = bounded_weight(a[size_t(i)], s.row_lse[i]);
      gradients.x(attention ? kept : products.x, attention ? dense_weight.data() : row_factor.data(), out.x.data(),
                  out.scale);
    }
    if (!p.self_pairs() && (want_y() || bias_per_col())) {
      const Partners partners(n, m, e.positive.data(), x_coefficient.data());
      if (want_y()) gradients.y(products.y, row_factor.data(), partners, out.y.data(), out.scale);
      for (int64_t j = 0; bias_per_col() && j < m; ++j) {
        double total = factor * products.per_col[j];
        for (int64_t q = partners.offset[size_t(j)]; q < partners.offset[size_t(j) + 1]; ++q)
          total += partners.weight[size_t(q)];
        out.bias[j] = total;
      }
    }
    if (out.scale) *out.scale = gradients.scale_gradient();
    if (out.bias && !bias_per_col()) {
      double total = 0;
      if (e.epilogue == kSigmoid)
        for (int64_t i = 0; i < n; ++i) total += a[size_t(i)] * (s.row_lse[i] - s.row_gap[i]);
      out.bias[0] = total;  // a softmax does not see a constant
    }
  }

 private:
  const Engine<T>& e;
  const PairProblem& p;
  const int64_t n, m;
  const Stats s;
  const double* const grad;
  const PairGradients& out;
  const bool running, attention;
  const bool were_kept;  // the products, by the forward pass
  Products<T> products;
  std::vector<double> a;              // the upstream gradient of each row's loss
  std::vector<double> x_coefficient;  // positives: coefficient of y_j in row i's gradient, and of x_i in row j's
  std::vector<double> y_total;        // of the coefficients, for each row of y
  SideWeights<T> rows, cols;
  Buffer<T> grad_x, grad_y;
  Buffer<double> col_total;

  bool want_y() const { return any_wanted(out.y); }
  bool want_x() const { return any_wanted(out.x) || (out.scale && !want_y()); }
  bool bias_per_col() const { return out.bias && p.bias.size() != 1; }

  // The weights of the pairs of rows [first, last).
  void weigh(int64_t first, int64_t last) {
    const double mean = *s.valid > 0 ? 1.0 / *s.valid : 0.0;
    for (int64_t i = first; i < last; ++i) {
      const double g =
          p.reduction == Reduction::none ? grad[i] : grad[0] * (p.reduction == Reduction::mean ? mean : 1.0);
      const bool counts = p.positives == Positives::classes ? !alone(s, i) : e.positive[i] >= 0;
      a[size_t(i)] = counts ? g * (p.symmetric ? 0.5 : 1.0) : 0.0;
      if (e.epilogue == kSigmoid)
        rows.weight[i] = T(a[size_t(i)]);
      else
        rows.set(i, a[size_t(i)], s.row_lse[i]);
    }
    for (int64_t j = 0; cols.weight.data() && j < m; ++j) cols.set(j, a[size_t(j)], s.col_lse[j]);
    for (int64_t i = first; i < last; ++i) {
      const int64_t j = e.positive[i];
      if (j < 0) {
        if (p.positives == Positives::classes)
          rows.set_floor(i, a[size_t(i)], m);  // the softmax's weights add up to it
        continue;
      }
      double c = a[size_t(i)] * s.row_gap[i];
      if (p.self_pairs()) c += a[size_t(j)] * s.row_gap[j];
      if (p.symmetric) c += a[size_t(j)] * s.col_gap[j];
      x_coefficient[size_t(i)] = -c;
      rows.set_floor(i, c, m);
      if (!y_total.empty()) y_total[size_t(j)] += std::fabs(c);
    }
    for (size_t j = 0; j < y_total.size(); ++j) cols.set_floor(int64_t(j), y_total[j], n);
  }
};

}  // namespace
}  // namespace fastssl
