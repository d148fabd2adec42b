// Forward, backward and Moments against plain loops: every element, activation, way to lie in memory, and what may be
// absent; shapes on both sides of every chunk, fold and vector.
#include "drive.hpp"
#include "helpers.hpp"

namespace batchnorm::tests {

double plain_activation(Activation activation, double z) {
  switch (activation) {
    case Activation::relu: return z > 0 ? z : 0;
    case Activation::leaky_relu: return z > 0 ? z : 0.01 * z;
    case Activation::sigmoid: return 1 / (1 + std::exp(-z));
    case Activation::tanh: return std::tanh(z);
    case Activation::silu: return z / (1 + std::exp(-z));
    case Activation::gelu: return z * 0.5 * std::erfc(-z * std::sqrt(0.5));
    default: return z;
  }
}

double plain_slope(Activation activation, double z) {
  const double s = 1 / (1 + std::exp(-z)), t = std::tanh(z);
  switch (activation) {
    case Activation::relu: return z > 0 ? 1 : 0;
    case Activation::leaky_relu: return z > 0 ? 1 : 0.01;
    case Activation::sigmoid: return s * (1 - s);
    case Activation::tanh: return 1 - t * t;
    case Activation::silu: return s + z * s * (1 - s);
    case Activation::gelu:
      return 0.5 * std::erfc(-z * std::sqrt(0.5)) + z * std::exp(-z * z / 2) * 0.39894228040143267794;
    default: return 1;
  }
}

namespace {

struct Case {
  Shape shape;
  Element element;
  Activation activation = Activation::none;
  bool residual = false, weighted = false, training = true, affine = true;
  std::size_t alignment = 0;  // of the results; 0 as malloc has it

  std::string name() const {
    return std::to_string(shape.rows) + "x" + std::to_string(shape.channels) + "x" + std::to_string(shape.positions) +
           " element " + std::to_string(static_cast<int>(element)) + " activation " +
           std::to_string(static_cast<int>(activation)) + (residual ? " residual" : "") + (weighted ? " weights" : "") +
           (training ? "" : " evaluation") + (affine ? "" : " plain");
  }
};

constexpr double kEps = 1e-3, kMomentum = 0.25;

class Trial {
 public:
  Trial(const Case& c, Random& random)
      : c_(c),
        values_(c.shape.rows * c.shape.channels * c.shape.positions),
        each_(c.shape.rows * c.shape.positions),
        kept_(c.element == Element::f64 ? Element::f64 : Element::f32),
        x_(c.element, values_), dy_(c.element, values_), residual_(c.element, c.residual ? values_ : 0),
        y_(c.element, values_, c.alignment), dx_(c.element, values_, c.alignment),
        dresidual_(c.element, c.residual ? values_ : 0),
        weights_(Element::f64, c.weighted ? each_ : 0),
        gamma_(c.element, c.shape.channels), beta_(c.element, c.shape.channels),
        dgamma_(c.element, c.shape.channels), dbeta_(c.element, c.shape.channels),
        mean_(kept_, c.shape.channels), var_(kept_, c.shape.channels),
        centre_(Element::f64, 4 * c.shape.channels), normal_(values_), entering_(values_) {
    random.fill(x_, -2, 3);
    random.fill(dy_, -1, 1);
    random.fill(residual_, -1, 1);
    random.fill(gamma_, 0.5, 2);
    random.fill(beta_, -1, 1);
    random.fill(mean_, -1, 1);
    random.fill(var_, 1, 2);
    for (std::int64_t i = 0; i < weights_.count(); ++i) weights_.set(i, std::floor(random(0, 3)));
    if (c.weighted) weights_.set(0, 1), weights_.set(each_ - 1, 2);
    solve();
  }

  void run(const Kernels& kernels, Findings& findings) {
    Forward f;
    f.shape = c_.shape, f.element = c_.element, f.activation = c_.activation, f.eps = kEps, f.training = c_.training;
    f.x = x_.data(), f.y = y_.data();
    f.residual = c_.residual ? residual_.data() : nullptr;
    f.weights = c_.weighted ? static_cast<const double*>(weights_.data()) : nullptr;
    if (c_.affine) f.gamma = gamma_.parameter(), f.beta = beta_.parameter();
    f.centre = {static_cast<double*>(centre_.data()), c_.shape.channels};
    f.running_mean = mean_.parameter(), f.running_var = var_.parameter();
    f.momentum = kMomentum;
    std::int64_t batches = 7;
    f.batches = &batches;
    const std::int64_t refused = kernels.forward(f);
    findings.near(c_.name(), "refused", static_cast<double>(refused), 0, 0);
    findings.near(c_.name(), "batches", static_cast<double>(batches), c_.training ? 8 : 7, 0);

    Backward b;
    b.shape = c_.shape, b.element = c_.element, b.activation = c_.activation, b.training = c_.training;
    b.x = x_.data(), b.dy = dy_.data(), b.residual = f.residual, b.weights = f.weights;
    b.gamma = f.gamma, b.beta = f.beta, b.centre = f.centre, b.dx = dx_.data();
    if (c_.residual) b.dresidual = dresidual_.data();
    if (c_.affine) b.dgamma = dgamma_.parameter(), b.dbeta = dbeta_.parameter();
    kernels.backward(b);
    compare(findings);
  }

 private:
  std::int64_t at(std::int64_t channel, std::int64_t i) const {  // value i of a channel
    const Shape& s = c_.shape;
    return (i / s.positions * s.channels + channel) * s.positions + i % s.positions;
  }
  double weight(std::int64_t i) const { return c_.weighted ? weights_[i] : 1.0; }

  // The expected statistics; and dy = 0 near the bend of an activation, where rounding decides on the side.
  void solve() {
    for (std::int64_t c = 0; c < c_.shape.channels; ++c) {
      double count = 0, mean = 0, m2 = 0;
      for (std::int64_t i = 0; i < each_; ++i) count += weight(i), mean += weight(i) * x_[at(c, i)];
      mean /= count;
      for (std::int64_t i = 0; i < each_; ++i) m2 += weight(i) * (x_[at(c, i)] - mean) * (x_[at(c, i)] - mean);
      old_mean_.push_back(mean_[c]), old_var_.push_back(var_[c]);
      batch_mean_.push_back(mean), m2_.push_back(m2), count_ = count;
      if (!c_.training) mean = mean_[c];
      const double rstd = 1 / std::sqrt((c_.training ? m2 / count : var_[c]) + kEps);
      rstd_.push_back(rstd);
      for (std::int64_t i = 0; i < each_; ++i) {
        const std::int64_t j = at(c, i);
        normal_[j] = (x_[j] - mean) * rstd;
        entering_[j] = (c_.affine ? normal_[j] * gamma_[c] + beta_[c] : normal_[j]) + (c_.residual ? residual_[j] : 0);
        if (std::abs(entering_[j]) < 1e-3) dy_.set(j, 0);
      }
    }
  }

  void compare(Findings& findings) const {
    const double work = working_eps_of(c_.element), own = eps_of(c_.element);
    const std::string name = c_.name();
    for (std::int64_t c = 0; c < c_.shape.channels; ++c) {
      double dgamma = 0, dbeta = 0, size = 0;
      for (std::int64_t i = 0; i < each_; ++i) {
        const std::int64_t j = at(c, i);
        const double g = weight(i) > 0 ? dy_[j] * plain_slope(c_.activation, entering_[j]) : 0;
        dgamma += g * normal_[j], dbeta += g, size += std::abs(g) * (1 + std::abs(normal_[j]));
      }
      if (c_.affine) {
        findings.near(name, "dgamma", dgamma_[c], dgamma, own * std::abs(dgamma) + 64 * work * (1 + size));
        findings.near(name, "dbeta", dbeta_[c], dbeta, own * std::abs(dbeta) + 64 * work * (1 + size));
      }
      const double scale = rstd_[static_cast<std::size_t>(c)] * (c_.affine ? gamma_[c] : 1);
      for (std::int64_t i = 0; i < each_; ++i) {
        const std::int64_t j = at(c, i);
        const bool counts = weight(i) > 0;
        const double y = counts ? plain_activation(c_.activation, entering_[j]) : 0;
        findings.near(name, "y", y_[j], y, own * std::abs(y) + 64 * work * (1 + std::abs(entering_[j])));
        const double g = counts ? dy_[j] * plain_slope(c_.activation, entering_[j]) : 0;
        if (c_.residual) findings.near(name, "dresidual", dresidual_[j], g, own * std::abs(g) + 64 * work * 4);
        const double towards = c_.training ? weight(i) * (dbeta + normal_[j] * dgamma) / count_ : 0;
        const double dx = scale * (g - towards);
        findings.near(name, "dx", dx_[j], dx, own * std::abs(dx) + 256 * work * scale * (1 + std::abs(towards)));
      }
      compare_statistics(c, findings);
    }
  }

  void compare_statistics(std::int64_t c, Findings& findings) const {
    const auto i = static_cast<std::size_t>(c);
    const double unbiased = m2_[i] / (count_ - 1), part = c_.training ? kMomentum : 0, own = 4 * eps_of(kept_);
    const std::string name = c_.name();
    findings.near(name, "mean", mean_[c], old_mean_[i] + part * (batch_mean_[i] - old_mean_[i]), own * 4);
    const double of_sums = c_.element == Element::f64 ? 1e-12 : 3e-7;
    findings.near(name, "var", var_[c], old_var_[i] + part * (unbiased - old_var_[i]), (own + of_sums) * (1 + unbiased));
    if (c_.training) {
      // Sums of narrow elements are short ones in float: docs/decisions/0008-native-kernels.md.
      const bool wide = c_.element == Element::f64;
      const double of_mean = wide ? 1e-13 : 1e-7 * std::sqrt(m2_[i] / count_), of_m2 = wide ? 1e-12 : 3e-7;
      findings.near(name, "batch mean", centre_[c] + centre_[c_.shape.channels + c], batch_mean_[i], of_mean + 1e-13);
      findings.near(name, "m2", centre_[3 * c_.shape.channels + c], m2_[i], of_m2 * (1 + m2_[i]));
    }
  }

  Case c_;
  std::int64_t values_, each_;
  Element kept_;
  Values x_, dy_, residual_, y_, dx_, dresidual_, weights_, gamma_, beta_, dgamma_, dbeta_, mean_, var_, centre_;
  std::vector<double> normal_, entering_;
  std::vector<double> old_mean_, old_var_, batch_mean_, m2_, rstd_;
  double count_ = 0;
};

void drive_statistics(const Kernels& kernels, const Shape& shape, Element element, Random& random, Findings& findings) {
  Values x(element, shape.rows * shape.channels), block(Element::f64, 4 * shape.channels);
  random.fill(x, -2, 3);
  kernels.statistics({shape, element, x.data(), static_cast<double*>(block.data())});
  const std::string name = "statistics " + std::to_string(shape.rows) + "x" + std::to_string(shape.channels);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    double mean = 0, m2 = 0;
    for (std::int64_t i = 0; i < shape.rows; ++i) mean += x[i * shape.channels + c] / static_cast<double>(shape.rows);
    for (std::int64_t i = 0; i < shape.rows; ++i) {
      const double d = x[i * shape.channels + c] - mean;
      m2 += d * d;
    }
    findings.near(name, "mean", block[c] + block[shape.channels + c], mean, 1e-12);
    findings.near(name, "m2", block[3 * shape.channels + c], m2, 1e-11 * (1 + m2));
  }
}

constexpr Element kElements[] = {Element::f32, Element::bf16, Element::f16, Element::f64};

}  // namespace

void drive_normalization(const Kernels& kernels, Findings& findings) {
  Random random;
  const Shape small[] = {{2, 1, 1},  {2, 3, 1},  {7, 5, 1},   {33, 3, 1}, {65, 17, 1}, {130, 16, 1}, {257, 2, 1},
                         {5, 33, 1}, {3, 1001, 1}, {1, 2, 2}, {4, 3, 5},  {3, 2, 16},  {2, 3, 33},   {2, 2, 67}};
  for (const Shape& shape : small) {
    for (const Element element : kElements) {
      for (int activation = 0; activation <= static_cast<int>(Activation::gelu); ++activation) {
        for (int flags = 0; flags < 16; ++flags) {
          const Case c{shape, element, static_cast<Activation>(activation), (flags & 1) != 0, (flags & 2) != 0,
                       (flags & 4) == 0, (flags & 8) == 0};
          Trial(c, random).run(kernels, findings);
        }
      }
      if (shape.positions == 1) drive_statistics(kernels, shape, element, random, findings);
    }
  }
}

void drive_large_normalization(const Kernels& kernels, Findings& findings) {
  Random random;
  // Enough for several threads and chunks: few channels and many, threads that share rows and that share columns; and one
  // chunk that one thread has alone.
  const Shape large[] = {{2051, 33, 1}, {4096, 64, 1}, {7001, 33, 1}, {80001, 2, 1}, {70, 1025, 1}, {20, 2048, 1},
                         {515, 770, 1}, {3, 2, 16385}, {1, 1, 65537}, {9, 16, 257},  {64, 20, 49}};
  for (const Shape& shape : large) {
    for (const Element element : kElements) {
      Trial({shape, element}, random).run(kernels, findings);
      Trial({shape, element, Activation::relu}, random).run(kernels, findings);
      Trial({shape, element, Activation::gelu, true, true}, random).run(kernels, findings);
      Trial({shape, element, Activation::none, true, false, false}, random).run(kernels, findings);
      if (shape.positions == 1) drive_statistics(kernels, shape, element, random, findings);
    }
  }
  // Results that are stored past the caches: 12 MB and more, aligned.
  for (const Shape& shape : {Shape{3, 64, 16384}, Shape{49152, 64, 1}}) {
    Trial({shape, Element::f32, Activation::none, false, false, true, true, 64}, random).run(kernels, findings);
    Trial({{shape.rows * 2, shape.channels, shape.positions}, Element::bf16, Activation::relu, false, false, true, true, 64},
          random).run(kernels, findings);
  }
}

void drive_normalization_with_helpers(const Kernels& kernels, Findings& findings) {
  Random random;
  const Helped helped(3);
  for (const Shape& shape : {Shape{60, 100, 1}, Shape{256, 512, 1}, Shape{130, 1537, 1}}) {  // a training step's
    for (const Element element : {Element::f32, Element::f64}) {
      Trial({shape, element, Activation::relu}, random).run(kernels, findings);
      Trial({shape, element, Activation::gelu, false, true}, random).run(kernels, findings);
    }
  }
}

}  // namespace batchnorm::tests
