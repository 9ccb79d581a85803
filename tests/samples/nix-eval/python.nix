# A stand-in for Python with its package set; `override` works as far as we use it. Every
# library has a version that will do. One that pyproject.toml asks for newly must be added
# here, once it is sure that nixpkgs has it under that name.
{
  lib,
  standIn,
  versioned,
  pkgs,
}:
let
  libraries = {
    aiodns = "3.5.0";
    aiohappyeyeballs = "2.6.1";
    aiohttp = "3.14.5";
    aiohttp-sse = "2.2.0";
    aiosignal = "1.4.0";
    aiosqlite = "0.22.1";
    apprise = "1.9.5";
    attrs = "25.4.0";
    blockbuster = "1.5.26";
    brotli = "1.2.0";
    click = "8.3.1";
    cryptography = "46.0.3";
    cython = "3.2.1";
    dnspython = "2.8.0";
    expandvars = "1.1.2";
    flit-core = "3.12.0";
    frozenlist = "1.8.0";
    gidgethub = "6.0.0";
    hatchling = "1.28.0";
    hypothesis = "6.150.0";
    idna = "3.11";
    jinja2 = "3.1.6";
    jsonschema = "4.25.1";
    markupsafe = "3.0.3";
    multidict = "6.7.0";
    mypy = "1.19.0";
    openapi-core = "0.22.0";
    pdm-backend = "2.4.6";
    pkgconfig = "1.5.5";
    playwright = "1.56.0";
    prometheus-client = "0.23.1";
    propcache = "0.4.1";
    pydantic = "2.12.5";
    pyjwt = "2.10.1";
    pyte = "0.8.2";
    pytest = "9.0.2";
    pytest-aiohttp = "1.1.0";
    pytest-timeout = "2.4.0";
    pytest-xdist = "3.8.0";
    ruff = "0.14.6";
    schemathesis = "4.6.0";
    setuptools = "80.9.0";
    typing-extensions = "4.15.0";
    uritemplate = "4.2.0";
    yarl = "1.25.1";
  };
  build = versioned "python";
  packages =
    python: self:
    builtins.mapAttrs (name: version: standIn name { inherit version; }) libraries
    // {
      inherit python;
      inherit (pkgs) fetchPypi;
      buildPythonApplication = build;
      buildPythonPackage = build;
      callPackage = pkgs.newScope self;
    };
  make =
    arguments:
    let
      overrides = arguments.packageOverrides or (_: _: { });
      self = standIn "python3" {
        pythonVersion = "3.13";
        sitePackages = "lib/python3.13/site-packages";
        interpreter = "${self}/bin/python3.13";
        pkgs = lib.fix (lib.extends overrides (packages (arguments.self or self)));
        withPackages = choose: standIn "python3-env" { packages = choose self.pkgs; };
        override =
          change:
          make (arguments // (if builtins.isFunction change then change arguments else change));
      };
    in
    self;
in
make { }
