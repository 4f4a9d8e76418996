// Copyright 2026 by nobody.
#include <vector>

/// Returns the larger of two values.
template <typename T>
T larger(T a, T b) {
  return a > b ? a : b;
}

namespace shapes::inner {

/** A list of rows. */
class Rows : public Base<int> {
 public:
  /** Makes an empty list. */
  Rows() : count_(0) {
    clear();
  }

  /// Frees all of it again.
  ~Rows() {
    clear();
  }

  /// Adds the rows of another list.
  Rows& operator+=(const Rows& other) {
    return *this;
  }

  /// Tells whether there are any.
  explicit operator bool() const {
    return count_ > 0;
  }

  /*! Calls it like a function. */
  int operator()(int a) const noexcept {
    return a;
  }

  //! Reads one row of it.
  [[nodiscard]] virtual auto read(int at) const -> int override {
    return at;
  }

  // Google's style has plain lines
  // above what they describe.
  static int styled() {
    return 1;
  }

  /** Is defined below, outside. */
  void clear();

  /** Copies as the compiler does. */
  Rows(const Rows&) = default;

  int field_; ///< The field's own documentation.
  int after_field() {
    return field_;
  }

  /** Takes any callable thing. */
  template <class F, typename... Args>
  decltype(auto) apply(F&& f, Args&&... args) {
    return f(args...);
  }

 private:
  int count_;
};

/// Forgets all rows of it.
void Rows::clear() {
  count_ = 0;
}

/// Builds it outside of its class.
Rows::Rows(int n) : count_(n) {
  clear();
}

}  // namespace shapes::inner

/** Works for one type alone. */
template <>
void shapes::Box<std::vector<int>>::open() {
  return;
}

/// Writes it to a stream.
std::ostream& operator<<(std::ostream& out, const Rows& rows) {
  return out;
}

/** Overloaded for integers. */
int twice(int a) {
  return 2 * a;
}

/** Overloaded for text of any length. */
std::string twice(const std::string& a) {
  return a + a;
}

#if defined(FAST)
/// Sums up with vectors.
int sum() {
  return 1;
}
#endif

extern "C" {
/// Is called from C alone.
int from_c(void) {
  return 1;
}
}

/// Opens by itself for C.
extern "C" int single_c(void) {
  return 1;
}

/// Runs a local class in it.
void local() {
  struct Worker {
    /// Does the local work.
    void work() {
      return;
    }
  };
  auto lambda = [](int a) { return a; };
  lambda(1);
}

/// Picks the smaller of two.
#define SMALLER(a, b) \
  ((a) < (b) ? (a) : (b))

/// Is computed while compiling.
constexpr int square(int a) {
  return a * a;
}

/// Asks a concept of it first.
template <typename T>
  requires std::integral<T>
T half(T a) {
  return a / 2;
}

/// Returns a reference of it.
int&& moved(int& a) {
  return static_cast<int&&>(a);
}

/// Is the test of it.
TEST_F(RowsTest, Reads) {
  EXPECT_EQ(1, 1);
}

/* A heading apart. */

int apart() {
  return 1;
}

/**
 * @brief Reads `a` <b>date</b> from text.
 * @tparam T of it
 */
int brief() {
  return 1;
}
