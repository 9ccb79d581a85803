# The Python that the server runs on, with libraries within the bounds of pyproject.toml.
#
# They are nixpkgs' own wherever its version will do. One that is too old (or too new) there
# is replaced, in the whole set so that no two versions meet, by the release below.
{
  lib,
  python3,
}:
let
  project = (lib.importTOML ../../pyproject.toml).project;

  # "aiosqlite>=0.22.1,<0.23" -> { name = "aiosqlite"; bounds = [ [ ">=" "0.22.1" ] … ]; }
  parse =
    requirement:
    let
      plain = lib.replaceStrings [ " " ] [ "" ] (lib.head (lib.splitString ";" requirement));
      parts = builtins.match "([A-Za-z0-9._-]+)(\\[[A-Za-z0-9,._-]*])?(.*)" plain;
      text = lib.elemAt parts 2;
    in
    {
      name = lib.toLower (lib.replaceStrings [ "_" "." ] [ "-" "-" ] (lib.head parts));
      bounds = map (builtins.match "([<>=!~]+)(.+)") (
        lib.optionals (text != "") (lib.splitString "," text)
      );
    };
  holds = {
    ">=" = version: bound: lib.versionAtLeast version bound;
    "<=" = version: bound: lib.versionAtLeast bound version;
    "<" = version: bound: lib.versionOlder version bound;
    ">" = version: bound: lib.versionOlder bound version;
    "==" = version: bound: version == bound;
    "!=" = version: bound: version != bound;
  };
  within =
    version: requirement:
    lib.all (
      bound: holds.${lib.head bound} version (lib.elemAt bound 1)
    ) requirement.bounds;
  requirements = map parse project.dependencies;

  # What may be replaced, and for whom besides ourselves.
  forAiohttp = parse "yarl>=1.25.1,<2";
  replaceable = lib.filter (requirement: releases { } ? ${requirement.name}) requirements;
  unfit = old: lib.filter (requirement: !within old.${requirement.name}.version requirement);
  replaced =
    old:
    let
      ours = map (requirement: requirement.name) (unfit old replaceable);
      theirs = lib.optionals (lib.elem "aiohttp" ours) (unfit old [ forAiohttp ]);
    in
    ours ++ map (requirement: requirement.name) theirs;

  # A release as its authors published it, and tested it.
  release =
    packages: name:
    { version, hash, ... }@given:
    packages.buildPythonPackage (
      {
        pname = name;
        inherit version;
        pyproject = true;
        src = packages.fetchPypi {
          pname = name;
          inherit version hash;
        };
        doCheck = false;
        pythonImportsCheck = [ name ];
      }
      // removeAttrs given [ "hash" ]
    );
  releases = packages: {
    aiohttp = {
      version = "3.14.5";
      hash = "sha256-VVin9aBa+ez3RK+R5brvxDb5PJMz5lbCfsJT+aa74Xg=";
      # It carries llhttp and the C that Cython made of its sources.
      build-system = [
        packages.pkgconfig
        packages.setuptools
      ];
      dependencies = [
        packages.aiohappyeyeballs
        packages.aiosignal
        packages.attrs
        packages.frozenlist
        packages.multidict
        packages.propcache
        packages.typing-extensions
        packages.yarl
      ];
      optional-dependencies.speedups = [
        packages.aiodns
        packages.brotli
      ];
    };
    yarl = {
      version = "1.25.1";
      hash = "sha256-A9043gm8IT6aiyl2Huwz7h1TGNrA5J2K825NJ4MOI6c=";
      build-system = [
        packages.cython
        packages.expandvars
        packages.setuptools
      ];
      dependencies = [
        packages.idna
        packages.multidict
        packages.propcache
      ];
    };
    aiosqlite = {
      version = "0.22.1";
      hash = "sha256-BD4L140yiIwKnKkPx4izh5aEM2DIVacmKlMoExM6BlA=";
      build-system = [ packages.flit-core ];
      # 0.21 had it; what depends on aiosqlite may still expect it here.
      dependencies = [ packages.typing-extensions ];
    };
    gidgethub = {
      version = "6.0.0";
      hash = "sha256-Tm74rNtFVxIi6m9+yQ7IypPfhHOR2qyVAlYngPGYg2k=";
      build-system = [ packages.pdm-backend ];
      dependencies = [
        packages.cryptography
        packages.pyjwt
        packages.typing-extensions
        packages.uritemplate
      ];
    };
  };

  names = replaced python3.pkgs;
  python =
    if names == [ ] then
      python3
    else
      python3.override (old: {
        self = python;
        packageOverrides = lib.composeExtensions (old.packageOverrides or (_: _: { })) (
          new: _: lib.genAttrs names (name: release new name (releases new).${name})
        );
      });
in
{
  inherit python project;
  # The libraries of a list of requirements as pyproject.toml writes them.
  libraries = map (
    requirement:
    let
      inherit (parse requirement) name;
    in
    python.pkgs.${name}
      or (throw "this nixpkgs has no Python library ${name}, which pyproject.toml asks for: update nixpkgs")
  );
  # Name and version of what takes the place of nixpkgs' own.
  replaced = lib.genAttrs names (name: (releases { }).${name}.version);
}
