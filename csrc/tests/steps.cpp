// The parts of a training step against plain loops: products of every orientation, pointwise functions, sums of columns,
// losses and updates.
#include "steps.hpp"

#include "drive.hpp"

namespace batchnorm::tests {
namespace {

void drive_product(const Kernels& kernels, Element element, std::int64_t rows, std::int64_t columns, std::int64_t inner,
                   int flags, Random& random, Findings& findings) {
  const bool left_turned = flags & 1, right_turned = flags & 2, with_bias = flags & 4;
  Values left(element, rows * inner), right(element, inner * columns), bias(element, columns), out(element, rows * columns);
  random.fill(left, -1, 1), random.fill(right, -1, 1), random.fill(bias, -1, 1);
  Product p;
  p.element = element, p.rows = rows, p.columns = columns, p.inner = inner;
  p.left = left.data(), p.left_row = left_turned ? 1 : inner, p.left_column = left_turned ? rows : 1;
  p.right = right.data(), p.right_row = right_turned ? 1 : columns, p.right_column = right_turned ? inner : 1;
  p.bias = with_bias ? bias.data() : nullptr;
  p.out = out.data();
  kernels.steps->product(p);
  const std::string name = "product " + std::to_string(rows) + "x" + std::to_string(inner) + "x" +
                           std::to_string(columns) + " flags " + std::to_string(flags);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      double sum = with_bias ? bias[j] : 0;
      for (std::int64_t k = 0; k < inner; ++k) {
        sum += left[i * p.left_row + k * p.left_column] * right[k * p.right_row + j * p.right_column];
      }
      findings.near(name, "", out[i * columns + j], sum, eps_of(element) * static_cast<double>(inner + 2));
    }
  }
}

void drive_pointwise(const Kernels& kernels, Element element, std::int64_t count, Random& random, Findings& findings) {
  Values z(element, count), other(element, count), to(element, count);
  random.fill(z, -6, 6), random.fill(other, -1, 1);
  for (int activation = 0; activation <= static_cast<int>(Activation::gelu); ++activation) {
    for (int kind = 0; kind < 3; ++kind) {
      Pointwise p;
      p.element = element, p.activation = static_cast<Activation>(activation), p.count = count;
      p.z = z.data(), p.to = to.data();
      if (kind == 1) p.dy = other.data();
      if (kind == 2) p.factor = other.data();
      kernels.steps->pointwise(p);
      const std::string name = "pointwise " + std::to_string(activation) + " kind " + std::to_string(kind);
      for (std::int64_t i = 0; i < count; ++i) {
        const double expected = kind == 0   ? plain_activation(p.activation, z[i])
                                : kind == 1 ? other[i] * plain_slope(p.activation, z[i])
                                            : z[i] * other[i];
        findings.near(name, "", to[i], expected,
                      16 * eps_of(element) * (1 + std::abs(expected)));
      }
    }
  }
}

void drive_column_sums(const Kernels& kernels, Element element, std::int64_t rows, std::int64_t columns, Random& random,
                       Findings& findings) {
  Values x(element, rows * columns), to(element, columns);
  random.fill(x, -1, 2);
  kernels.steps->column_sums({element, rows, columns, x.data(), to.data()});
  for (std::int64_t j = 0; j < columns; ++j) {
    double sum = 0;
    for (std::int64_t i = 0; i < rows; ++i) sum += x[i * columns + j];
    findings.near("column sums", "", to[j], sum, eps_of(element) * (1 + 2 * static_cast<double>(rows)));
  }
}

void drive_loss(const Kernels& kernels, Element element, std::int64_t rows, std::int64_t columns, bool weighted,
                Random& random, Findings& findings) {
  Values scores(element, rows * columns), targets(element, rows), weights(element, rows), gradient(element, rows * columns);
  std::vector<std::int64_t> classes(static_cast<std::size_t>(rows));
  random.fill(scores, -5, 5), random.fill(targets, -1, 1), random.fill(weights, 0, 2);
  for (auto& c : classes) c = static_cast<std::int64_t>(random(0, static_cast<double>(columns)));
  double value = 0, total = 0, loss = 0;
  Loss l;
  l.element = element, l.rows = rows, l.columns = columns, l.scores = scores.data(), l.gradient = gradient.data();
  l.weights = weighted ? weights.data() : nullptr;
  l.value = &value;
  const bool squared = columns == 1;
  if (squared) l.targets = targets.data(); else l.classes = classes.data();
  findings.near("loss", "takes the classes", kernels.steps->loss(l), 1, 0);
  for (std::int64_t i = 0; i < rows; ++i) total += weighted ? weights[i] : 1;
  for (std::int64_t i = 0; i < rows; ++i) {
    const double share = (weighted ? weights[i] : 1) / total, residual = scores[i * columns] - targets[i];
    double sum = 0;
    for (std::int64_t j = 0; j < columns; ++j) sum += std::exp(scores[i * columns + j]);
    const std::int64_t y = classes[static_cast<std::size_t>(i)];
    loss += share * (squared ? residual * residual : std::log(sum) - scores[i * columns + y]);
    for (std::int64_t j = 0; j < columns; ++j) {
      const double softmax = std::exp(scores[i * columns + j]) / sum;
      findings.near("loss", "gradient", gradient[i * columns + j], share * (squared ? 2 * residual : softmax - (j == y)),
                    8 * eps_of(element) * share * 12);
    }
  }
  findings.near("loss", "value", value, loss, 64 * eps_of(element) * (1 + loss));
  if (squared) return;
  for (const std::int64_t none : {std::int64_t{-1}, columns}) {
    classes.back() = none;
    findings.near("loss", "refuses a class that is none", kernels.steps->loss(l), 0, 0);
  }
}

void drive_descent(const Kernels& kernels, Element element, Rule rule, Random& random, Findings& findings) {
  const double tolerance = 64 * eps_of(element);
  Descent d;
  d.element = element, d.rule = rule, d.rate = 0.1, d.keep = 0.9, d.keep_square = 0.99, d.eps = 1e-3;
  for (const std::int64_t count : {1, 3, 16, 17, 1000, 70001}) {
    Values p(element, count), g(element, count), first(element, count), second(element, count);
    random.fill(p, -1, 1), random.fill(g, -1, 1), random.fill(first, 0, 1), random.fill(second, 0.1, 1);
    std::vector<double> p0, m0, s0;
    for (std::int64_t i = 0; i < count; ++i) p0.push_back(p[i]), m0.push_back(first[i]), s0.push_back(second[i]);
    float step = 4;
    d.segments = {{count, p.data(), g.data(), rule == Rule::descent ? nullptr : first.data(),
                   rule == Rule::adam ? second.data() : nullptr, rule == Rule::adam ? &step : nullptr, 0.01}};
    kernels.steps->descend(d);
    const std::string name = "descent by rule " + std::to_string(static_cast<int>(rule));
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double decayed = g[i] + 0.01 * p0[at], m = m0[at];
      double expected = 0;
      switch (rule) {
        case Rule::descent: expected = p0[at] - 0.1 * decayed; break;
        case Rule::momentum: expected = p0[at] - 0.1 * (0.9 * m + decayed); break;
        case Rule::rmsprop:
          expected = p0[at] - 0.1 * decayed / (std::sqrt(0.9 * m + 0.1 * decayed * decayed) + 1e-3);
          break;
        default: {
          const double mean = m + 0.1 * (g[i] - m), square = 0.99 * s0[at] + 0.01 * g[i] * g[i];
          const double root = std::sqrt(1 - std::pow(0.99, 5));
          expected = p0[at] * (1 - 0.1 * 0.01) - 0.1 / (1 - std::pow(0.9, 5)) * mean / (std::sqrt(square) / root + 1e-3);
        }
      }
      findings.near(name, "", p[i], expected,
                    tolerance * (1 + std::abs(expected)));
    }
  }
}

}  // namespace

void drive_steps(const Kernels& kernels, Findings& findings) {
  Random random;
  for (const Element element : {Element::f32, Element::f64}) {
    for (int flags = 0; flags < 8; ++flags) {
      for (const std::int64_t rows : {1, 5, 7, 12, 60}) {
        for (const std::int64_t columns : {1, 3, 10, 16, 33, 65, 130}) {
          for (const std::int64_t inner : {1, 4, 17, 100, 385}) {
            drive_product(kernels, element, rows, columns, inner, flags, random, findings);
          }
        }
      }
      drive_product(kernels, element, 257, 203, 129, flags, random, findings);  // for several threads
      drive_product(kernels, element, 700, 10, 784, flags, random, findings);
    }
    for (const std::int64_t count : {1, 15, 16, 17, 100, 40001}) drive_pointwise(kernels, element, count, random, findings);
    for (const std::int64_t columns : {1, 10, 64, 65, 200}) {
      drive_column_sums(kernels, element, 60, columns, random, findings);
    }
    for (const std::int64_t columns : {1, 2, 3, 10, 33}) {
      for (const bool weighted : {false, true}) drive_loss(kernels, element, 37, columns, weighted, random, findings);
    }
    for (const Rule rule : {Rule::descent, Rule::momentum, Rule::rmsprop, Rule::adam}) {
      drive_descent(kernels, element, rule, random, findings);
    }
  }
}

}  // namespace batchnorm::tests
