//! Between parsing a template and running it: the tree is rebuilt with checks in it.
//!
//! Every expression that can make a large value (`+`, `~`, `*`, slices, literals, calls,
//! filters) is wrapped in a filter that charges the value to the rendering's budget, every
//! assignment in one that also bounds its nesting, and plain text is printed like a value, so
//! that it is charged too. `~` joins values as Python writes them.
//!
//! The parser bounds how deep a template nests but not how long a chain of operators or `elif`s
//! may be, and a chain is a tree as deep as it is long. So chains are counted before it runs.

use minijinja::machinery::ast::{self, BinOpKind, CallArg, Expr, Spanned, Stmt};
use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Error, ErrorKind};

pub(super) const MADE: &str = "__made";
pub(super) const SAME: &str = "__same";
pub(super) const CONCAT: &str = "__concat";
pub(super) const STORED: &str = "__stored";
pub(super) const STORED_IN: &str = "__stored_in";

/// Operators, dots, brackets and the like in one tag. The longest tags in use have about 60.
const MAX_OPERATORS: usize = 256;
/// Conditions in a chain, counted over the whole template.
const MAX_ELIFS: usize = 256;

/// Refuses chains that would make the tree too deep.
pub(super) fn check_chains(source: &str, syntax: SyntaxConfig) -> Result<(), (u32, String)> {
    let (mut operators, mut elifs) = (0, 0);
    for item in tokenize(source, false, syntax) {
        let Ok((token, span)) = item else {
            // The parser meets the same error and words it better.
            return Ok(());
        };
        let line = u32::from(span.start_line);
        match token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            Token::Ident("elif") => elifs += 1,
            Token::Ident("not" | "and" | "or" | "in" | "is" | "if") => operators += 1,
            Token::TemplateData(_)
            | Token::Ident(_)
            | Token::Str(_)
            | Token::String(_)
            | Token::Int(_)
            | Token::Float(_)
            | Token::Comma
            | Token::Colon => {}
            _ => operators += 1,
        }
        if operators > MAX_OPERATORS {
            return Err((line, format!("has more than {MAX_OPERATORS} operators in one tag")));
        }
        if elifs > MAX_ELIFS {
            return Err((line, format!("has more than {MAX_ELIFS} elifs")));
        }
    }
    Ok(())
}

type Rebuilt<T> = Result<T, Error>;

fn filter<'a>(name: &'a str, expr: Expr<'a>, args: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    let args = args.into_iter().map(CallArg::Pos).collect();
    Expr::Filter(Spanned::new(ast::Filter { name, expr: Some(expr), args }, span))
}

fn made<'a>(expr: Expr<'a>, span: Span) -> Expr<'a> {
    filter(MADE, expr, vec![], span)
}

fn stored<'a>(target: &Expr<'a>, value: &Expr<'a>) -> Rebuilt<Expr<'a>> {
    let name = if matches!(target, Expr::GetAttr(_)) { STORED_IN } else { STORED };
    Ok(filter(name, expr(value)?, vec![], value.span()))
}

fn exprs<'a>(list: &[Expr<'a>]) -> Rebuilt<Vec<Expr<'a>>> {
    list.iter().map(expr).collect()
}

fn optional<'a>(value: &Option<Expr<'a>>) -> Rebuilt<Option<Expr<'a>>> {
    value.as_ref().map(expr).transpose()
}

fn args<'a>(list: &[CallArg<'a>]) -> Rebuilt<Vec<CallArg<'a>>> {
    list.iter()
        .map(|arg| {
            Ok(match arg {
                CallArg::Pos(e) => CallArg::Pos(expr(e)?),
                CallArg::Kwarg(name, e) => CallArg::Kwarg(name, expr(e)?),
                CallArg::PosSplat(e) => CallArg::PosSplat(expr(e)?),
                CallArg::KwargSplat(e) => CallArg::KwargSplat(expr(e)?),
            })
        })
        .collect()
}

fn call<'a>(call: &Spanned<ast::Call<'a>>) -> Rebuilt<Spanned<ast::Call<'a>>> {
    let node = ast::Call { expr: expr(&call.expr)?, args: args(&call.args)? };
    Ok(Spanned::new(node, call.span()))
}

fn expr<'a>(node: &Expr<'a>) -> Rebuilt<Expr<'a>> {
    let span = node.span();
    Ok(match node {
        Expr::Var(e) => Expr::Var(Spanned::new(ast::Var { id: e.id }, span)),
        Expr::Const(e) => Expr::Const(constant(e.value.clone(), span)),
        Expr::Slice(e) => {
            let (start, stop) = (optional(&e.start)?, optional(&e.stop)?);
            let slice = ast::Slice { expr: expr(&e.expr)?, start, stop, step: optional(&e.step)? };
            made(Expr::Slice(Spanned::new(slice, span)), span)
        }
        Expr::UnaryOp(e) => {
            let negates = matches!(e.op, ast::UnaryOpKind::Neg);
            let op = if negates { ast::UnaryOpKind::Neg } else { ast::UnaryOpKind::Not };
            Expr::UnaryOp(Spanned::new(ast::UnaryOp { op, expr: expr(&e.expr)? }, span))
        }
        Expr::BinOp(e) => {
            let (left, right) = (expr(&e.left)?, expr(&e.right)?);
            match e.op {
                BinOpKind::Concat => filter(CONCAT, left, vec![right], span),
                BinOpKind::Add | BinOpKind::Mul => {
                    // Keeps the compiler from working out `"x" * 100000000` by itself.
                    let left = filter(SAME, left, vec![], span);
                    let op = ast::BinOp { op: e.op, left, right };
                    made(Expr::BinOp(Spanned::new(op, span)), span)
                }
                op => Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, span)),
            }
        }
        Expr::Compare(e) => {
            let ops = e.ops.iter();
            let ops = ops.map(|o| Ok(ast::CompareOp { op: o.op, expr: expr(&o.expr)? }));
            let ops = ops.collect::<Rebuilt<_>>()?;
            Expr::Compare(Spanned::new(ast::Compare { expr: expr(&e.expr)?, ops }, span))
        }
        Expr::IfExpr(e) => {
            let node = ast::IfExpr {
                test_expr: expr(&e.test_expr)?,
                true_expr: expr(&e.true_expr)?,
                false_expr: optional(&e.false_expr)?,
            };
            Expr::IfExpr(Spanned::new(node, span))
        }
        Expr::Filter(e) => {
            let node = ast::Filter { name: e.name, expr: optional(&e.expr)?, args: args(&e.args)? };
            made(Expr::Filter(Spanned::new(node, span)), span)
        }
        Expr::Test(e) => {
            let node = ast::Test { name: e.name, expr: expr(&e.expr)?, args: args(&e.args)? };
            Expr::Test(Spanned::new(node, span))
        }
        Expr::GetAttr(e) => {
            let node = ast::GetAttr { expr: expr(&e.expr)?, name: e.name };
            Expr::GetAttr(Spanned::new(node, span))
        }
        Expr::GetItem(e) => {
            let subscript_expr = expr(&e.subscript_expr)?;
            let node = ast::GetItem { expr: expr(&e.expr)?, subscript_expr };
            Expr::GetItem(Spanned::new(node, span))
        }
        Expr::Call(e) => made(Expr::Call(call(e)?), span),
        Expr::List(e) => {
            let node = ast::List { items: exprs(&e.items)? };
            made(Expr::List(Spanned::new(node, span)), span)
        }
        Expr::Tuple(e) => {
            let node = ast::Tuple { items: exprs(&e.items)? };
            made(Expr::Tuple(Spanned::new(node, span)), span)
        }
        Expr::Map(e) => {
            let node = ast::Map { keys: exprs(&e.keys)?, values: exprs(&e.values)? };
            made(Expr::Map(Spanned::new(node, span)), span)
        }
    })
}

fn constant(value: Value, span: Span) -> Spanned<ast::Const> {
    Spanned::new(ast::Const { value }, span)
}

/// What is assigned to: names and attributes, not values.
fn target<'a>(node: &Expr<'a>) -> Rebuilt<Expr<'a>> {
    let span = node.span();
    Ok(match node {
        Expr::Var(e) => Expr::Var(Spanned::new(ast::Var { id: e.id }, span)),
        Expr::GetAttr(e) => {
            let node = ast::GetAttr { expr: expr(&e.expr)?, name: e.name };
            Expr::GetAttr(Spanned::new(node, span))
        }
        Expr::List(e) => {
            let items = e.items.iter().map(target).collect::<Rebuilt<_>>()?;
            Expr::List(Spanned::new(ast::List { items }, span))
        }
        Expr::Tuple(e) => {
            let items = e.items.iter().map(target).collect::<Rebuilt<_>>()?;
            Expr::Tuple(Spanned::new(ast::Tuple { items }, span))
        }
        _ => return Err(refuse(span, "assigns to something that is no name")),
    })
}

fn refuse(span: Span, reason: &str) -> Error {
    let line = span.start_line;
    Error::new(ErrorKind::SyntaxError, format!("{reason} (line {line})"))
}

fn stmts<'a>(list: &[Stmt<'a>]) -> Rebuilt<Vec<Stmt<'a>>> {
    list.iter().map(stmt).collect()
}

fn macro_decl<'a>(node: &Spanned<ast::Macro<'a>>) -> Rebuilt<Spanned<ast::Macro<'a>>> {
    let node_args = node.args.iter().map(target).collect::<Rebuilt<_>>()?;
    let rebuilt = ast::Macro {
        name: node.name,
        args: node_args,
        defaults: exprs(&node.defaults)?,
        body: stmts(&node.body)?,
    };
    Ok(Spanned::new(rebuilt, node.span()))
}

pub(super) fn stmt<'a>(node: &Stmt<'a>) -> Rebuilt<Stmt<'a>> {
    Ok(match node {
        Stmt::Template(s) => {
            Stmt::Template(Spanned::new(ast::Template { children: stmts(&s.children)? }, s.span()))
        }
        Stmt::EmitExpr(s) => {
            // A call that is printed at once stays bare: `loop(...)` and `super()` are known
            // only in that form, and what is printed is charged anyway.
            let expr = match &s.expr {
                Expr::Call(e) => Expr::Call(call(e)?),
                other => expr(other)?,
            };
            Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, s.span()))
        }
        Stmt::EmitRaw(s) => {
            let expr = Expr::Const(constant(Value::from(s.raw), s.span()));
            Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, s.span()))
        }
        Stmt::ForLoop(s) => {
            let node = ast::ForLoop {
                target: target(&s.target)?,
                iter: expr(&s.iter)?,
                filter_expr: optional(&s.filter_expr)?,
                recursive: s.recursive,
                body: stmts(&s.body)?,
                else_body: stmts(&s.else_body)?,
            };
            Stmt::ForLoop(Spanned::new(node, s.span()))
        }
        Stmt::IfCond(s) => {
            let node = ast::IfCond {
                expr: expr(&s.expr)?,
                true_body: stmts(&s.true_body)?,
                false_body: stmts(&s.false_body)?,
            };
            Stmt::IfCond(Spanned::new(node, s.span()))
        }
        Stmt::WithBlock(s) => {
            let pairs = s.assignments.iter().map(|(t, e)| Ok((target(t)?, stored(t, e)?)));
            let assignments = pairs.collect::<Rebuilt<_>>()?;
            let node = ast::WithBlock { assignments, body: stmts(&s.body)? };
            Stmt::WithBlock(Spanned::new(node, s.span()))
        }
        Stmt::Set(s) => {
            let node = ast::Set { target: target(&s.target)?, expr: stored(&s.target, &s.expr)? };
            Stmt::Set(Spanned::new(node, s.span()))
        }
        Stmt::SetBlock(s) => {
            let node = ast::SetBlock {
                target: target(&s.target)?,
                filter: optional(&s.filter)?,
                body: stmts(&s.body)?,
            };
            Stmt::SetBlock(Spanned::new(node, s.span()))
        }
        Stmt::FilterBlock(s) => {
            let node = ast::FilterBlock { filter: expr(&s.filter)?, body: stmts(&s.body)? };
            Stmt::FilterBlock(Spanned::new(node, s.span()))
        }
        Stmt::Macro(s) => Stmt::Macro(macro_decl(s)?),
        Stmt::CallBlock(s) => {
            let node =
                ast::CallBlock { call: call(&s.call)?, macro_decl: macro_decl(&s.macro_decl)? };
            Stmt::CallBlock(Spanned::new(node, s.span()))
        }
        Stmt::Continue(s) => Stmt::Continue(Spanned::new(ast::Continue, s.span())),
        Stmt::Break(s) => Stmt::Break(Spanned::new(ast::Break, s.span())),
        Stmt::Do(s) => Stmt::Do(Spanned::new(ast::Do { call: call(&s.call)? }, s.span())),
        Stmt::AutoEscape(s) => return Err(refuse(s.span(), "escapes HTML")),
        Stmt::Block(s) => return Err(refuse(s.span(), "has inheritance blocks")),
        Stmt::Import(s) => return Err(refuse(s.span(), "imports another template")),
        Stmt::FromImport(s) => return Err(refuse(s.span(), "imports another template")),
        Stmt::Extends(s) => return Err(refuse(s.span(), "extends another template")),
        Stmt::Include(s) => return Err(refuse(s.span(), "includes another template")),
    })
}
