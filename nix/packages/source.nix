# A part of this checkout as a source: the files and folders named, without what Python or
# an editor leaves between them. A change elsewhere does not build the packages anew.
{ lib }:
names:
let
  root = ../..;
  prefix = "${toString root}/";
  kept =
    path:
    lib.any (name: path == name || lib.hasPrefix "${name}/" path || lib.hasPrefix "${path}/" name) names;
  litter =
    path:
    baseNameOf path == "__pycache__"
    || lib.hasSuffix ".pyc" path
    || lib.hasSuffix ".swp" path
    || lib.hasSuffix "~" path;
in
builtins.path {
  name = "source";
  path = root;
  filter =
    path: _:
    let
      relative = lib.removePrefix prefix (toString path);
    in
    kept relative && !litter relative;
}
