# Finds the targets of one locked flake and evaluates them, in pure mode, on Nix 2.8 and
# newer. Nix prints nothing of what was good when something cannot be caught (abort, a
# type error, recursion, memory): therefore a line that starts with `mark`, which the
# flake cannot know, is traced before everything that may fail.
#
#   source    what builtins.fetchTree wants: the commit, as the mirror has it
#   url       the same as a flake reference
#   requests  [ { pattern; exact; path = [ { name } or { match } ]; suffix = [ name ]; } ]
#             `match` is a POSIX extended regular expression; without any, `exact`
#   skip      paths and patterns that are known to fail
#   most      nothing is evaluated when there are more targets than that
#   mode      "all": `throw` spares the other targets, but its message is lost;
#             "one": nothing is caught; "list": nothing is evaluated
#   outputsOf what the flake has, as a function of it (see harness.nix)
#
# The result is one string, `mark` and the JSON of (each target has a suffix, too)
#   targets    [ { path; derivation = { drvPath; system; outputs }; } or
#                { path; type; }            no derivation, but this
#                { path; caught = true; }   mode "all"
#                { path; missing; has; }    no such attribute, but these
#                { path; } ]                mode "list"
#   inventory  what the flake has, when nothing was found
#   many       how many targets there are
{ mark, source, url, requests, skip, most, mode, outputsOf ? flake: flake.outputs }:
let
  inherit (builtins)
    attrNames concatMap deepSeq elem elemAt fetchTree filter foldl' genList getFlake
    head isAttrs length listToAttrs match seq tail toJSON trace tryEval typeOf
    unsafeDiscardStringContext;

  say = message: trace (mark + toJSON message);

  tree = say { stage = "source"; } (fetchTree source).outPath;
  flake = say { stage = "flake"; inherit tree; } (getFlake url);
  outputs = outputsOf flake;

  # Of what is only told to people, no more than they could read.
  some = names: if length names > 1000 then genList (elemAt names) 1000 else names;

  namesOf = value: if isAttrs value then attrNames value else [ ];
  pick = foldl' (set: name: set.${name});

  find = { exact, path, value, rest }:
    let
      wanted = head rest;
      names = namesOf value;
      into = name: find {
        inherit exact;
        path = path ++ [ name ];
        value = value.${name};
        rest = tail rest;
      };
    in
    if rest == [ ] then
      [ { inherit path value; } ]
    else if wanted ? match then
      concatMap into (filter (name: match wanted.match name != null) names)
    else if elem wanted.name names then
      into wanted.name
    else if exact then
      [ {
        path = path ++ map (later: later.name) rest;
        missing = wanted.name;
        has = some names;
      } ]
    else
      [ ];

  findAll = { pattern, path, suffix, exact }:
    if elem [ pattern ] skip then
      [ ]
    else
      say { inherit pattern; } (map (found: found // { inherit suffix; }) (find {
        inherit exact;
        path = [ ];
        value = outputs;
        rest = path;
      }));

  describe = value:
    if isAttrs value && value.type or null == "derivation" then {
      derivation = {
        drvPath = unsafeDiscardStringContext value.drvPath;
        system = value.system or null;
        outputs = listToAttrs (map
          (name: { inherit name; value = unsafeDiscardStringContext value.${name}.outPath; })
          (value.outputs or [ "out" ]));
      };
    } else {
      type = typeOf value;
    };

  evaluate = { value, path, suffix }:
    let
      described = describe (pick value suffix);
      whole = deepSeq described described;
      attempt = tryEval whole;
    in
    say { path = path ++ suffix; } (
      if mode == "one" then whole
      else if attempt.success then attempt.value
      else { caught = true; }
    );

  finish = found:
    { inherit (found) path suffix; }
    // (if found ? missing then { inherit (found) missing has; }
      else if mode == "list" then { }
      else evaluate found);

  isSystem = name: match ".*-(darwin|freebsd|linux)" name != null;
  inventory = say { stage = "inventory"; } (map
    (name: {
      path = [ name ];
      has = map
        (member: {
          path = [ name member ];
          has = if isSystem member then some (namesOf outputs.${name}.${member}) else [ ];
        })
        (some (namesOf outputs.${name}));
    })
    (some (namesOf outputs)));

  found = filter (target: !elem (target.path ++ target.suffix) skip)
    (seq flake (concatMap findAll requests));
in
mark + toJSON {
  many = length found;
  targets = if length found > most then [ ] else map finish found;
  inventory = if found == [ ] && skip == [ ] then inventory else [ ];
}
