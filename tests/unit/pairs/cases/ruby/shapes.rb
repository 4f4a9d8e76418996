#!/usr/bin/env ruby
# frozen_string_literal: true

# Shapes that documented methods come in.
module Shapes
  # Base of all shapes.
  class Base < Struct.new(:w, :h)
    # Makes a new shape.
    def initialize(w)
      @w = w
    end

    # Gives the area of it.
    #
    # Never negative.
    def area
      w * h
    end

    # Finds one by +name+ or *id* in <tt>store</tt>.
    def self.find(name, id: nil, **rest, &block)
      store[name]
    end

    class << self
      # Counts them all.
      def count
        store.size
      end
    end

    # Is it round?
    def round?
      false
    end

    # Sets the width anew.
    def width=(w)
      @w = w
    end

    # Adds two of them.
    def +(other)
      Base.new(w + other.w)
    end

    # Compares two of them.
    def ==(other)
      w == other.w
    end

    # Stands above a modifier.
    private def hidden
      1
    end

    # Memoized by a helper.
    memoize def slow(n)
      n ** n
    end

    # Written without an end.
    def endless(n) = n + 1

    # Does nothing at all.
    def empty; end

    # Stands above a blank line.

    def spaced
      1
    end

    # Stands above two blank lines.


    def far
      1
    end

    # Describes the attribute alone.
    attr_reader :size
    def after_code
      size
    end

    LIMIT = 10 # trails behind code
    def trailed
      LIMIT
    end

    # Parses the +text+ given.
    #
    # @param text [String] what to parse
    # @return [Base]
    def parse(text)
      text.to_i
    end

    # @return [Integer] only a tag
    def only_tag
      1
    end

    ##
    # :call-seq:
    #   each { |x| ... }
    #   each -> enumerator
    #
    # Calls the block for each.
    def each
      yield self
    end

    # rubocop:disable Metrics/MethodLength
    # Has a remark to a tool.
    def remarked
      1
    end

    # Links to {Base#area the area} and {Base}.
    def linked
      area
    end

    # Prints a heredoc text.
    def heredoc
      puts <<~TEXT, <<-'RAW'
        # Not a comment
        def not_a_method
        end
      TEXT
        raw
      RAW
    end

    # Größe der Fläche.
    def größe(ä)
      ä
    end

	# Indented by tabs.
	def tabbed(x)
		if x
			1
		end
	end

    # A test of it.
    def test_it
      1
    end

    # Holds an inner one.
    def holder
      # Lies inside the holder.
      def held
        1
      end
    end

    # Shows it as text.
    def to_s
      "shape"
    end
  end

  # Named by its path.
  class Round::Circle
    # Gives the radius of it.
    def radius
      @r
    end
  end

  Point = Class.new do
    # Lies in an anonymous class.
    def where
      [0, 0]
    end
  end
end

=begin
Documented by a long block
of two lines.
=end
def blocked
  1
end

# Rescues what goes wrong.
def rescued
  work
rescue StandardError => e
  warn e
ensure
  done
end

__END__
# Not code any more.
def after_end
  1
end
