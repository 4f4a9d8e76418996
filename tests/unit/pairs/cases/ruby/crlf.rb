# Ends its lines
# with CR LF.
def dos
  1
end
