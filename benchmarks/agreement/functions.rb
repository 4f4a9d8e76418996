# Methods of Ruby files with their documentation, as YARD's own parser sees them: one JSON object a line.
require "json"
require "yard"

YARD::Logger.instance.level = YARD::Logger::FATAL
Dir.glob("#{ARGV[0]}/**/*.rb").sort.each do |path|
  YARD::Registry.clear
  YARD.parse(path)
  YARD::Registry.all(:method).each do |method|
    next if method.is_attribute? || method.is_alias? || method.source.nil? || method.source !~ /\A\s*(\w+ )*def\b/
    puts JSON.generate(path: path, line: method.line, name: method.name(false).to_s, doc: method.docstring.to_s)
  end
end
