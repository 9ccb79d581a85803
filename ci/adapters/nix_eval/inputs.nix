# Fetches locked inputs into the store, one by one, exactly as evaluation will ask for
# them. A line that starts with `mark` says which one is being fetched.
#
#   inputs  [ { name; locked = attributes for builtins.fetchTree; } ]
#
# The result is `mark` and the JSON of the list of their store paths.
{ mark, inputs }:
let
  inherit (builtins) fetchTree toJSON trace unsafeDiscardStringContext;
  fetch = input:
    trace (mark + toJSON { input = input.name; })
      (unsafeDiscardStringContext (fetchTree input.locked).outPath);
in
mark + toJSON (map fetch inputs)
